import copy
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.grid import cells as cells_module
from anomaly_zoo.grid.cells import Cell, conflicts, grid, identity, remember
from anomaly_zoo.results import Result


def make(root: Path, *options: str, store: Path = Path("results"), **more: Any) -> list[Cell]:
    asked: dict[str, Any] = {"categories": ["alpha"], "shots": [2], "seeds": [0]} | more
    return grid("patchcore", {"tiny": root}, options=options, store=store, **asked)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_cell_knows_its_place(tiny_root: Path) -> None:
    (cell,) = make(tiny_root, shots=[4], seeds=[3])
    assert cell.path == Path("results/tiny/alpha/patchcore/shots=4/seed=3.json")
    assert cell.log_path == Path("results/tiny/alpha/patchcore/shots=4/seed=3/log.txt")
    assert cell.name == "patchcore alpha shots=4 seed=3"


def test_a_variant_has_a_name_a_place_and_an_identity_of_its_own(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_view(tmp_path, monkeypatch, 1)
    (cell,) = grid("coft:one_view", {"tiny": tiny_root}, ["alpha"], [2], [0], [], Path("results"))
    (whole,) = grid("coft", {"tiny": tiny_root}, ["alpha"], [2], [0], [], Path("results"))
    assert (cell.method, cell.config["model"]["init_args"]["support_views"]) == ("coft:one_view", 1)
    assert cell.path == Path("results/tiny/alpha/coft@one_view/shots=2/seed=0.json")
    assert cell.identity != whole.identity


def one_view(sweeps: Path, monkeypatch: pytest.MonkeyPatch, views: int) -> None:
    """Says how many views the variant has."""
    (sweeps / "coft.yaml").write_text(f"one_view: {{support_views: {views}}}\n")
    monkeypatch.setattr("anomaly_zoo.yaml_files.SWEEPS", sweeps)


def test_every_cell_has_an_identity_of_its_own(tiny_root: Path) -> None:
    cells = make(tiny_root, categories=["all"], shots=[1, 2], seeds=[0, 1, 2])
    assert len(cells) == len({cell.identity for cell in cells}) == len({cell.path for cell in cells}) == 12
    assert [cell.identity for cell in cells] == [identity(cell.method, cell.config) for cell in cells]


@pytest.mark.parametrize(
    "option", ["--data.image_size=64", "--model.init_args.max_patches=50", "--backbone.weights=none"]
)
def test_whatever_decides_the_numbers_changes_the_identity(option: str, tiny_root: Path) -> None:
    assert make(tiny_root, option)[0].identity != make(tiny_root)[0].identity


@pytest.mark.parametrize("option", ["--data.num_workers=2", "--data.test_batch_size=3", "--trainer.default_root_dir=x"])
def test_what_cannot_change_a_score_does_not(option: str, tiny_root: Path) -> None:
    assert make(tiny_root, option)[0].identity == make(tiny_root)[0].identity


def test_the_images_count_and_not_where_they_lie(tiny_root: Path, tmp_path: Path) -> None:
    before = make(tiny_root)[0].identity
    copied = shutil.copytree(tiny_root, tmp_path / "copy")
    assert make(copied)[0].identity == before
    image = next((copied / "alpha" / "train" / "good").iterdir())
    content = image.read_bytes()
    image.write_bytes(content + b"\0")
    assert make(copied)[0].identity != before
    image.write_bytes(content)
    assert make(copied)[0].identity == before
    image.rename(image.with_name("zzz.png"))
    assert make(copied)[0].identity != before


def test_the_content_of_a_weight_file_counts(tiny_root: Path) -> None:
    Path("a.pth").write_bytes(b"1")
    first = make(tiny_root, "--backbone.weights=a.pth")[0].identity
    Path("a.pth").rename("b.pth")
    assert make(tiny_root, "--backbone.weights=b.pth")[0].identity == first
    Path("b.pth").write_bytes(b"2")
    assert make(tiny_root, "--backbone.weights=b.pth")[0].identity != first


def stored(by: Cell, identity: str = "") -> Result:
    return Result(dataset="tiny", category="alpha", method=by.method, shots=2, seed=0, backbone="b", config=by.config,
                  cell=identity)  # fmt: skip


def test_a_result_of_another_tool_is_judged_by_its_configuration(tiny_root: Path) -> None:
    (cell,) = make(tiny_root)
    assert conflicts(stored(cell), cell) == []
    other = copy.deepcopy(cell.config)
    other["data"]["root"] = "elsewhere"
    assert conflicts(stored(Cell(cell.method, other, cell.store, "")), cell) == []
    other["data"]["views"] = 7
    assert conflicts(stored(Cell(cell.method, other, cell.store, "")), cell) == ["data.views"]
    other["backbone"]["weights"] = "none"
    assert conflicts(stored(Cell(cell.method, other, cell.store, "")), cell) == ["data.views", "backbone.weights"]


def test_the_same_settings_with_other_images_are_a_conflict(tiny_root: Path) -> None:
    (cell,) = make(tiny_root)
    assert conflicts(stored(cell, cell.identity), cell) == []
    assert conflicts(stored(cell, "0" * 64), cell) == ["the images or the weights"]


def test_several_datasets_make_one_grid(tiny_root: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_root, tmp_path / "other")
    (other / "beta").rename(other / "gamma")
    roots = {"tiny": tiny_root, "other": other}
    cells = grid("patchcore", roots, ["all"], [1], [0], [], Path("r"))
    places = [cell.path.parts[1:3] for cell in cells]
    assert places == [("tiny", "alpha"), ("tiny", "beta"), ("other", "alpha"), ("other", "gamma")]
    assert [cell.path.parts[1] for cell in grid("patchcore", roots, ["gamma"], [1], [0], [], Path("r"))] == ["other"]
    with pytest.raises(FileNotFoundError, match="no category 'delta' in "):
        grid("patchcore", roots, ["delta"], [1], [0], [], Path("r"))


# What is remembered


def remembered(tiny_root: Path) -> Path:
    (cell,) = make(tiny_root)
    remember([cell])
    (file,) = Path("results/.resolved").iterdir()
    assert json.loads(file.read_text())["config"] == cell.config
    return file


def test_the_resolved_configuration_is_remembered(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(tiny_root)
    remembered(tiny_root)
    monkeypatch.setattr("anomaly_zoo.config.resolve", None)
    assert make(tiny_root) == before
    with pytest.raises(TypeError):  # another request is resolved anew
        make(tiny_root, "--data.image_size=32")


def test_a_damaged_memory_is_not_believed(tiny_root: Path) -> None:
    before = make(tiny_root)
    file = remembered(tiny_root)
    for content in ("", "{}", "[]", file.read_text().replace('"shots": 8', '"shots": 9').replace("256", "64")):
        file.write_text(content)
        assert make(tiny_root) == before


def test_a_change_of_the_code_forgets_it(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered(tiny_root)
    version_of = cells_module.version_of
    monkeypatch.setattr("anomaly_zoo.config.resolve", None)
    monkeypatch.setattr(
        cells_module, "version_of", lambda path: time.time_ns() if path.name == "memory.py" else version_of(path)
    )
    with pytest.raises(TypeError):
        make(tiny_root)


def test_a_change_of_the_variant_forgets_it(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for views in (1, 2):
        one_view(tmp_path, monkeypatch, views)
        (cell,) = grid("coft:one_view", {"tiny": tiny_root}, ["alpha"], [2], [0], [], Path("results"))
        assert cell.config["model"]["init_args"]["support_views"] == views
        remember([cell])
    assert len([*Path("results/.resolved").iterdir()]) == 2


def test_a_method_from_elsewhere_is_never_remembered(tiny_root: Path) -> None:
    Path("toy.yaml").write_text("model: {class_path: tests.toy.Toy}\n")
    remember(grid("toy.yaml", {"tiny": tiny_root}, ["alpha"], [2], [0], [], Path("results")))
    assert not os.path.lexists("results")
