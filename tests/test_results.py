"""The results store: what is read back is what was saved, whole, whatever happens to the writer."""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomaly_zoo.compare.runs import protocol
from anomaly_zoo.results import Result, conflicting_keys, load, load_all, result_path, save

FAILED = Result(
    dataset="mvtec", category="bottle", method="coft", shots=8, seed=0, backbone="lite0", status="failed", error="boom"
)
OK = replace(
    FAILED,
    status="ok",
    error=None,
    metrics={"image_auroc": 0.1 + 0.2, "pixel_auroc": 1.0},
    per_defect={"crack": {"image_auroc": 0.5}},
    undefined={"aupro": "no masks"},
    timing={"adapt_s": 12.5},
    resources={"trainable_params": 3_413_000},
    training={"steps": 10.0, "kept_step": 5.0, "weights_moved": 1e-3},
    support={"paths": ["train/good/1.png", "train/good/ü.png"], "sha256": "ab" * 32},
    images=[
        {"path": "test/crack/0.png", "defect": "crack", "label": True, "score": 60.25},
        {"path": "test/good/0.png", "defect": "good", "label": False, "score": -1e-300},
    ],
    config={"seed_everything": 0, "data": {"views": 2, "mean": [0.5, None]}},
    versions={"torch": "2.10"},
    git={"commit": "c0ffee", "dirty": True},
    device="cpu",
    started="2026-01-01T00:00:00+00:00",
)
# The names that the design fixes for tools outside.
IDENTITY = ["schema", "dataset", "category", "method", "shots", "seed", "backbone", "status", "error"]
FIXED_NAMES = [*IDENTITY, "metrics", "timing", "resources", "support", "images", "config", "versions"]


def test_the_fixed_names_are_the_top_level_keys(tmp_path: Path) -> None:
    record = json.loads(save(FAILED, tmp_path).read_text())
    assert set(FIXED_NAMES) <= set(record)
    assert list(record) == [part.name for part in fields(Result)]
    assert record["schema"] == 1


@pytest.mark.parametrize("result", [OK, FAILED])
def test_round_trip(result: Result, tmp_path: Path) -> None:
    path = save(result, tmp_path)
    assert path == result.path_in(tmp_path) == tmp_path / "mvtec/bottle/coft/shots=8/seed=0.json"
    assert load(path) == result
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    before = path.read_bytes()
    save(load(path), tmp_path)
    assert path.read_bytes() == before


_numbers = st.floats(allow_nan=False, allow_infinity=False)
_names = st.text(st.characters(exclude_characters="/\\\0", max_codepoint=0x2FF), min_size=1, max_size=20)
_leaves = st.none() | st.booleans() | st.integers() | _numbers | st.text()
_nested = st.recursive(_leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
_image = {"path": st.text(), "defect": st.text(), "label": st.booleans(), "score": _numbers}


@settings(max_examples=50, deadline=None)
@given(
    category=_names.filter(lambda name: name not in (".", "..")),
    shots=st.integers(0),
    metrics=st.dictionaries(st.text(), _numbers),
    config=st.dictionaries(st.text(), _nested, max_size=4),
    images=st.lists(st.fixed_dictionaries(_image), max_size=3),
)
def test_every_finite_result_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], **changes: Any
) -> None:
    store = tmp_path_factory.mktemp("store")
    result = replace(OK, config=config, **changes)
    save(result, store)
    assert load_all(store) == [result]
    assert conflicting_keys(load_all(store)[0].config, config) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\\b", "../up", "nul\0"])
@pytest.mark.parametrize("part", ["dataset", "category", "method"])
def test_a_name_that_would_leave_its_folder_is_refused(part: str, name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {part: name}
    with pytest.raises(ValueError, match=f"{part} .* must be the name of one folder"):
        save(replace(OK, **changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_variant_lies_in_a_folder_that_every_system_allows(tmp_path: Path) -> None:
    variant = replace(OK, method="coft:no_np")
    path = save(variant, tmp_path)
    assert path == tmp_path / "mvtec/bottle/coft@no_np/shots=8/seed=0.json"
    save(OK, tmp_path)
    assert load_all(tmp_path) == [OK, variant]
    path.write_text(path.read_text().replace("coft:no_np", "coft:no_pp"))
    with pytest.raises(ValueError, match=r"coft@no_np.* holds the run that belongs in .*coft@no_pp"):
        load_all(tmp_path)
    with pytest.raises(ValueError, match="'coft@no_np' must not contain '@'"):
        save(replace(OK, method="coft@no_np"), tmp_path)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="shots=-1"):
        result_path(Path(), "d", "c", "m", shots=-1, seed=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"metrics": {"image_auroc": 0.5, "aupro": float("nan")}}, "metrics.aupro is nan"),
        ({"per_defect": {"crack": {"aupro": float("-inf")}}}, "per_defect.crack.aupro is -inf"),
        ({"images": [OK.images[0], {**OK.images[1], "score": float("inf")}]}, "images[1].score is inf"),
        ({"config": {"model": {"lr": [1.0, float("nan")]}}}, "config.model.lr[1] is nan"),
        ({"config": {"data": {"root": Path("x")}}}, "config.data.root is a PosixPath"),
        (
            {"images": [{"path": "0.png", "label": True, "score": 1.0}]},
            "missing required field `defect` - at `$.images[0]`",
        ),
        ({"images": [{**OK.images[0], "label": 1}]}, "Expected `bool`, got `int` - at `$.images[0].label`"),
        ({"support": {"paths": []}}, "missing required field `sha256` - at `$.support`"),
        ({"error": "but it is ok"}, "exactly if it failed"),
    ],
)
def test_what_could_not_be_read_back_is_not_saved(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    before = save(OK, tmp_path).read_bytes()
    with pytest.raises(ValueError, match=re.escape(named)):
        save(replace(OK, **changes), tmp_path)
    assert OK.path_in(tmp_path).read_bytes() == before


def test_a_full_disk_leaves_the_earlier_result_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(OK, tmp_path)

    def refuse(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save(replace(OK, metrics={}), tmp_path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert load(path) == OK


def _without(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps({key: value for key, value in record.items() if key != name})


def _with(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps({**record, **changes})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda record: "", "is not whole JSON"),
        (lambda record: json.dumps(record)[:-20], "is not whole JSON"),
        (lambda record: json.dumps(record) * 2, "is not whole JSON"),
        (lambda record: "\udcff\udcfe", "is not whole JSON"),
        (lambda record: "[" * 100_000, "Expected `object`, got `array`"),
        (lambda record: json.dumps(record)[:-2] + ', "x": ' + "[" * 100_000, "is not whole JSON"),
        (lambda record: "[1, 2]", "Expected `object`, got `array`"),
        *((_without(name), f"it lacks {name}") for name in FIXED_NAMES),
        (_with(shots="8"), "Expected `int`, got `str` - at `$.shots`"),
        (_with(seed=True), "Expected `int`, got `bool` - at `$.seed`"),
        (_with(schema=None), "Expected `int`, got `null` - at `$.schema`"),
        (_with(status="done"), "Invalid enum value 'done' - at `$.status`"),
        (_with(status="failed"), "exactly if it failed"),
        (_with(metrics=[1.0]), "Expected `object`, got `array` - at `$.metrics`"),
        (_with(metrics={"aupro": "0.5"}), "Expected `float`, got `str` - at `$.metrics[...]`"),
        (_with(metrics={"aupro": float("nan")}), "is not whole JSON"),
        (_with(per_defect={"crack": 0.5}), "Expected `object`, got `float` - at `$.per_defect[...]`"),
        (_with(images=[{"path": "0.png"}]), "missing required field `defect` - at `$.images[0]`"),
        (_with(images=[None]), "Expected `object`, got `null` - at `$.images[0]`"),
        (_with(support=[]), "Expected `object`, got `array` - at `$.support`"),
        (_with(config=None), "Expected `object`, got `null` - at `$.config`"),
        (_with(schema=2), "has schema 2, this version reads 1: upgrade anomaly_zoo"),
        (_with(schema=2, images="another layout"), "has schema 2, this version reads 1: upgrade anomaly_zoo"),
    ],
)
def test_damage_is_named_with_the_file_and_the_way_out(
    damage: Callable[[dict[str, Any]], str], named: str, tmp_path: Path
) -> None:
    path = save(OK, tmp_path)
    path.write_bytes(damage(json.loads(path.read_text())).encode(errors="surrogateescape"))
    for read in (lambda: load(path), lambda: load_all(tmp_path)):
        with pytest.raises(ValueError, match=re.escape(named)) as caught:
            read()
        assert str(path) in str(caught.value)
        assert re.search("run it again|upgrade", str(caught.value))
        assert "\n" not in str(caught.value)


def test_other_tools_may_leave_out_what_is_not_fixed_and_add_their_own(tmp_path: Path) -> None:
    path = FAILED.path_in(tmp_path)
    path.parent.mkdir(parents=True)
    record = {name: getattr(FAILED, name) for name in FIXED_NAMES}
    path.write_text(json.dumps({**record, "note": "by hand"}))
    assert load_all(tmp_path) == [FAILED]


def test_load_all_reads_result_files_only_and_sorts_by_number(tmp_path: Path) -> None:
    saved = [replace(OK, shots=shots, seed=seed) for shots in (1, 2, 16) for seed in (0, 2, 10)]
    for result in reversed(saved):
        save(result, tmp_path)
    folder = saved[0].path_in(tmp_path).parent
    (folder / "seed=0").mkdir()
    for litter in ("seed=0/seed=1.json", "seed=0/wandb.json", ".seed=0.json.f00.tmp", "notes.json", "seed=0.json.bak"):
        (folder / litter).write_text("{")
    assert load_all(tmp_path) == saved


def test_no_store_holds_no_results(tmp_path: Path) -> None:
    assert load_all(tmp_path / "missing") == []


def test_a_copy_in_the_wrong_place_does_not_count_twice(tmp_path: Path) -> None:
    path = save(OK, tmp_path)
    path.with_name("seed=0 (copy).json").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"seed=0 \(copy\).json holds the run that belongs in .*seed=0.json"):
        load_all(tmp_path)


_WRITER = """
import itertools, sys
from dataclasses import replace
from pathlib import Path
from anomaly_zoo.results import Result, save
image = {"path": "test/crack/0.png", "defect": "crack", "label": True, "score": 0.5}
result = Result(dataset="d", category="c", method="m", shots=1, seed=0, backbone="b", images=[image] * 500)
for count in itertools.count():
    save(replace(result, seed=count % 3, metrics={"count": float(count)}), Path(sys.argv[1]))
    if count == 3:
        print("ready", flush=True)
"""


def test_a_killed_writer_never_leaves_a_part_of_a_result(tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(30):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            try:
                assert writer.stdout
                assert writer.stdout.readline() == b"ready\n"
                end = time.monotonic() + moments.uniform(0, 0.03)
                while time.monotonic() < end:
                    assert {result.seed for result in load_all(tmp_path)} <= {0, 1, 2}
            finally:
                writer.kill()
        results = load_all(tmp_path)
        assert [result.seed for result in results] == [0, 1, 2]
        assert all(len(result.images) == 500 and result.metrics["count"] % 3 == result.seed for result in results)


@pytest.mark.slow
def test_ten_thousand_results_are_read_in_seconds(tmp_path: Path) -> None:
    whole = replace(OK, images=OK.images * 40, per_defect={f"defect_{n}": OK.metrics for n in range(5)})
    text = save(whole, tmp_path).read_text()
    for number in range(1, 10_000):
        result = replace(whole, category=f"category_{number // 100}", seed=number % 100)
        path = result.path_in(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace('"bottle"', f'"{result.category}"').replace('"seed": 0', f'"seed": {result.seed}'))
    start = time.process_time()
    assert len(load_all(tmp_path)) == 10_000
    assert time.process_time() - start < 15  # about 4 s alone on one core


CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "backbone": {"name": "lite0", "stages": None, "weights": "auto"},
    "model": {"class_path": "anomaly_zoo.methods.coft.COFT", "init_args": {"temperature": 0.1}},
    "data": {"root": "a", "dataset": "mvtec", "category": "bottle", "shots": 8, "seed": 0, "image_size": 256}
    | {"batch_size": 4, "views": 2, "test_batch_size": 8, "num_workers": 0},
    "trainer": {"precision": "32-true", "max_steps": 100},
}


def test_the_protocol_is_what_can_change_a_number_in_every_method() -> None:
    assert protocol(replace(OK, config=CONFIG)) == {
        "backbone": {"name": "lite0", "stages": None, "weights": "auto"},
        "data": {"image_size": 256, "batch_size": 4, "views": 2},
        "trainer": {"precision": "32-true"},
    }
    assert protocol(FAILED) == {"backbone": {}, "data": {}, "trainer": {}}


def test_conflicting_keys_are_dotted_and_sorted() -> None:
    other = {**CONFIG, "data": {**CONFIG["data"], "views": 3, "mean": 0.5}, "trainer": None}
    assert conflicting_keys(CONFIG, other) == ["data.mean", "data.views", "trainer"]
    assert conflicting_keys(other, CONFIG) == ["data.mean", "data.views", "trainer"]
    assert (
        conflicting_keys({"stages": (2, 3), "lr": 1, "root": Path("a")}, {"stages": [2, 3], "lr": 1.0, "root": "a"})
        == []
    )
    assert conflicting_keys({"a": None}, {}) == ["a"]
