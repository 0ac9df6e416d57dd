"""Which runs a store lacks, and the commands that make them."""

import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo import bench
from anomaly_zoo.compare.__main__ import main
from anomaly_zoo.compare.missing_runs import commands
from anomaly_zoo.results import Result, load_all, save
from tests.runs import failed, run

STORE = Path("store")
CONFIG: dict[str, Any] = {
    "backbone": {"name": "lite0", "weights": "auto"},
    "data": {"root": "parts", "image_size": 128},
}
FIXED = ["--dataset", "mvtec", "--root", "parts", "--backbone", "lite0", "--weights", "auto", "--image-size", "128"]


def asked(
    results: list[Result], *methods: str, shots: tuple[int, ...] = (), datasets: tuple[str, ...] = ()
) -> list[list[str]]:
    wanted = methods or dict.fromkeys(result.method for result in results)
    return list(commands(results, STORE, [*wanted, "frozen"], datasets, shots))


def made(method: str, seed: int, category: str = "bottle", **changes: Any) -> Result:
    return run(method, seed, 0.5, category, config=CONFIG, **changes)


def test_an_empty_store_is_filled_with_the_choices_of_bench() -> None:
    assert asked([]) == [["--method", "frozen", "--results", "store"]]
    rest = ["--dataset", "elpv", "--shots", "1", "8", "--results", "store"]
    assert asked([], "coft", shots=(1, 8), datasets=("elpv",)) == [["--method", "coft", "frozen", *rest]]


def test_only_what_is_missing_is_run_with_the_protocol_of_the_rest() -> None:
    results = [
        *(made("frozen", seed, category) for seed in (0, 1) for category in ("bottle", "screw")),
        made("coft", 0),
        failed("coft", 0, "boom", category="screw", config=CONFIG),
    ]
    start, end = ["--method", "coft", "--shots", "8", "--category"], [*FIXED, "--results", "store"]
    assert asked(results) == [
        [*start, "bottle", "--seeds", "1", *end],
        [*start, "screw", "--seeds", "0", "1", *end],
    ]
    assert asked(results[:4]) == []


def test_methods_that_lack_the_same_runs_share_a_command() -> None:
    (command,) = asked([made("frozen", 0)], "coft", "pf")
    assert command[:4] == ["--method", "coft", "pf", "--shots"]


def test_a_dataset_where_bench_looks_anyway_is_left_to_bench() -> None:
    embedded = {**CONFIG, "data": {"root": "datasets/elpv", "image_size": 128}}
    (command,) = asked([run("frozen", 0, 0.5, "mono", dataset="elpv", config=embedded)], shots=(4,))
    assert command[command.index("--dataset") :][:4] == ["--dataset", "elpv", "--backbone", "lite0"]
    (command,) = asked([run("frozen", 0, 0.5, "mono", dataset="moved", config=embedded)], shots=(4,))
    assert command[command.index("--dataset") :][:4] == ["--dataset", "moved", "--root", "datasets/elpv"]


def test_other_methods_and_shots_widen_the_grid() -> None:
    results = [made("frozen", 0)]
    found = asked(results, "trials/coft_long.yaml", shots=(4, 8))
    assert [command[1 : command.index("--category")] for command in found] == [
        ["trials/coft_long.yaml", "frozen", "--shots", "4"],
        ["trials/coft_long.yaml", "--shots", "8"],
    ]
    assert asked([*results, made("coft_long", 0)], "trials/coft_long.yaml") == []


def test_a_variant_is_asked_for_by_its_name() -> None:
    (command,) = asked([made("frozen", 0)], "coft:no_np")
    assert command[:2] == ["--method", "coft:no_np"]
    assert asked([made("frozen", 0), made("coft:no_np", 0)], "coft:no_np") == []


def test_run_fills_the_store_first_and_failed_runs_are_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def fill(commands: list[list[str]]) -> int:
        called.extend(commands)
        for method in ("gaussian", "frozen"):
            save(run(method, 0, 0.5), tmp_path)
        return 1

    monkeypatch.setattr(bench, "fill", fill)
    assert main([str(tmp_path), "--run", "--methods", "gaussian", "--shots", "8", "--format", "json"]) == 0
    assert called == [["--method", "gaussian", "frozen", "--shots", "8", "--results", str(tmp_path)]]
    assert {row["method"] for row in json.loads(capsys.readouterr().out)} == {"frozen", "gaussian"}


def test_what_cannot_be_run_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["store", "--run", "--datasets", "missing"])
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "error: datasets/missing is not a folder. Pass --root (make: ROOT=) with a folder in the MVTec layout.\n",
    )


@pytest.mark.slow
def test_bench_understands_the_commands(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")
    config = {"backbone": {"name": "resnet18", "weights": "none"}, "data": {"root": str(tiny_root), "image_size": 64}}
    for category in ("alpha", "beta"):
        save(run("patchcore", 3, 0.5, category, dataset="tiny", shots=2, config=config), tmp_path)
    assert main([str(tmp_path), "--run", "--methods", "frozen", "--format", "json"]) == 0
    made = [result for result in load_all(tmp_path) if result.method == "frozen"]
    assert [(result.category, result.shots, result.seed, result.status) for result in made] == [
        ("alpha", 2, 3, "ok"),
        ("beta", 2, 3, "ok"),
    ]
    assert made[0].config["backbone"]["name"] == "resnet18"
    assert made[0].config["data"]["image_size"] == 64
    assert (made[0].path_in(tmp_path).with_suffix("") / "gallery" / "index.json").is_file()
