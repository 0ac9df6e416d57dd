"""What a bench would run, in which parts, and what it need not do again."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.bench import main
from anomaly_zoo.data.images import read_image
from anomaly_zoo.results import load_all
from tests.test_bench import bench, runs, surroundings  # noqa: F401 - two fixtures

# pyflakes takes an argument with the name of an imported fixture for another thing
# ruff: noqa: F811


def test_a_dry_run_lists_what_would_run_and_how_long_it_should_take(
    tiny_root: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--seeds", "0", "1"]
    assert bench(tiny_root, *grid, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tiny/alpha/patchcore/shots=2/seed=0 tf_efficientnet_lite0: unknown"
    assert said[-1] == "0 of 4 runs are finished; the other 4 should take unknown, 1 at a time."
    assert (runs, Path("results").exists()) == ([], False)
    assert bench(tiny_root, *grid, "--category", "alpha") == 0  # 1 s and 2 s, says the fake
    capsys.readouterr()
    assert bench(tiny_root, *grid, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tiny/beta/patchcore/shots=2/seed=0 tf_efficientnet_lite0: 2 s"
    assert said[-1] == "2 of 4 runs are finished; the other 2 should take 4 s, 1 at a time."
    assert bench(tiny_root, *grid, "--dry-run", "--engine", "local", "--workers", "2") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("should take 2 s, 2 at a time.")
    assert len(runs) == 2


def test_the_tasks_of_a_job_array_make_the_grid(
    tiny_root: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--shots", "1", "2", "--seeds", "0", "1"]
    assert bench(tiny_root, *grid, "--list-cells") == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[3] == "3 tiny/alpha/patchcore/shots=2/seed=1 tf_efficientnet_lite0"
    assert not Path("results").exists()
    for number in reversed(range(8)):
        assert bench(tiny_root, *grid, "--cell", str(number)) == 0
    assert [line.partition(" ")[0] for line in listed] == [str(number) for number in range(8)]
    assert runs == [f"{c} {k} {s}" for c in ("beta", "alpha") for k in (2, 1) for s in (1, 0)]
    assert bench(tiny_root, *grid, "--list-cells") == 0  # the numbers do not depend on what is finished
    assert listed == [line for line in capsys.readouterr().out.splitlines() if line.startswith(tuple("01234567"))][-8:]


def test_several_methods_datasets_and_backbones_make_one_grid(tiny_root: Path, runs: list[str]) -> None:
    shutil.copytree(tiny_root, "copy")
    options = ["--shots", "2", "--seeds", "0", "--category", "beta", "--image-size", "64"]
    roots = ["--root", str(tiny_root), "copy"]
    assert main(["--method", "patchcore", "frozen", *roots, *options]) == 0
    assert sorted((result.dataset, result.method) for result in load_all(Path("results"))) == [
        (dataset, method) for dataset in ("copy", "tiny") for method in ("frozen", "patchcore")
    ]
    backbones = ["tf_efficientnet_lite0", "resnet18"]
    options += ["--method", "patchcore", "--root", str(tiny_root), "--weights", "none", "--results", "two"]
    assert main([*options, "--backbone", *backbones]) == 0
    for backbone in backbones:
        (result,) = load_all(Path("two") / f"backbone={backbone}")
        assert result.backbone == backbone


def test_all_variants_are_one_word_and_stand_beside_the_baseline_in_the_table(
    tiny_root: Path,
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "patchcore.yaml").write_text("one: {support_views: 1}\ntwo: {support_views: 2}\n")
    monkeypatch.setattr("anomaly_zoo.yaml_files.SWEEPS", tmp_path)
    monkeypatch.setattr("anomaly_zoo.bench.BASELINE", "patchcore")
    few = ["--root", str(tiny_root), "--category", "beta", "--shots", "2", "--seeds", "0", "--image-size", "64"]
    assert main(["--method", "patchcore", *few]) == 0
    capsys.readouterr()
    assert main(["--method", "patchcore:all", *few]) == 0
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert all([method, "1"] in shown for method in ("patchcore", "patchcore:one", "patchcore:two"))
    assert Path("results/tiny/beta/patchcore@two/shots=2/seed=0.json").is_file()


def test_what_was_checked_is_not_read_again(
    tiny_root: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(tiny_root, "copy"))
    assert bench(root, "--seeds", "0") == 0

    def refuse(path: Path) -> None:
        raise ValueError(f"{path} is read again")

    def refuse_test_images(path: Path) -> Any:  # the batch that warms up reads the support for training
        return refuse(path) if "test" in path.parts else read_image(path)

    with monkeypatch.context() as patch:
        patch.setattr("anomaly_zoo.data.prepare.check.read_image", refuse)
        patch.setattr("anomaly_zoo.data.dataset.read_image", refuse_test_images)
        assert bench(root, "--force") == 0
        assert bench(root, "--seeds", "1") == 2  # another seed draws another support
        assert "/train/good/" in capsys.readouterr().err
    image = root / "beta" / "test" / "small" / "000.png"
    image.write_bytes(image.read_bytes()[:100])
    assert bench(root, "--force") == 2
    assert "cannot read copy/beta/test/small/000.png" in capsys.readouterr().err
