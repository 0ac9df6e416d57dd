"""The comparison: numbers checked by hand, nothing mixed that must not be, and a table that can be read."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.compare import Summary, main, print_table, summarise
from anomaly_zoo.results import Result, save


def config(**data: Any) -> dict[str, Any]:
    return {"backbone": {"name": "lite0"}, "data": {"image_size": 256, **data}, "trainer": {"precision": "32-true"}}


def run(method: str, seed: int, auroc: float, category: str = "bottle", **changes: Any) -> Result:
    result = Result(
        dataset="mvtec",
        category=category,
        method=method,
        shots=8,
        seed=seed,
        backbone="lite0",
        metrics={"image_auroc": auroc, "aupro": auroc / 2},
        timing={"adapt_s": 10.0 + seed, "ms_per_image": 12.0},
        config=config(),
        support={"paths": [f"{seed}.png"], "sha256": f"{seed:064x}"},
    )
    return replace(result, **changes)


def failed(method: str, seed: int, error: str, **changes: Any) -> Result:
    nothing: dict[str, Any] = {"metrics": {}, "timing": {}, "status": "failed", "error": error}
    return run(method, seed, 0.0, **{**nothing, **changes})


def row_of(rows: Sequence[Summary], method: str, category: str = "bottle") -> Summary:
    (row,) = (row for row in rows if (row["method"], row["category"]) == (method, category))
    return row


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Prints results at a given terminal width and returns the lines."""

    def show(results: list[Result], width: int = 80, **options: Any) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(results, **options)
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert max(map(len, lines)) <= width
        return lines

    return show


THREE_SEEDS = [run("patchcore", 0, 0.80), run("patchcore", 1, 0.82), run("patchcore", 2, 0.84)]
TWO_SEEDS = [run("coft", 0, 0.90), run("coft", 1, 0.86)]


def test_mean_spread_and_paired_gain_by_hand() -> None:
    rows = summarise(THREE_SEEDS + TWO_SEEDS)
    assert [row["category"] for row in rows] == ["bottle", "bottle"]
    baseline, coft = row_of(rows, "patchcore"), row_of(rows, "coft")
    assert (baseline["n"], coft["n"], coft["failed"], coft["num_categories"]) == (3, 2, 0, 1)
    assert baseline["metrics"]["image_auroc"] == pytest.approx({"mean": 0.82, "std": 0.02, "n": 3}, abs=1e-15)
    assert coft["metrics"]["image_auroc"] == pytest.approx({"mean": 0.88, "std": 0.02 * 2**0.5, "n": 2}, abs=1e-15)
    # +0.10 on seed 0 and +0.04 on seed 1; the baseline's third seed has no partner.
    assert coft["gain"]["image_auroc"] == pytest.approx({"mean": 0.07, "std": 0.03 * 2**0.5, "n": 2}, abs=1e-15)
    assert coft["metrics"]["adapt_s"] == pytest.approx({"mean": 10.5, "std": 0.5**0.5, "n": 2})
    assert baseline["gain"] == {}


def test_another_baseline_or_none() -> None:
    assert row_of(summarise(THREE_SEEDS + TWO_SEEDS, "coft"), "patchcore")["gain"]["aupro"]["mean"] == pytest.approx(
        -0.035
    )
    assert row_of(summarise(TWO_SEEDS), "coft")["gain"] == {}


def test_one_seed_has_no_spread(shown: Any) -> None:
    one = [run("patchcore", 0, 0.8), run("coft", 0, 0.9)]
    row = row_of(summarise(one), "coft")
    assert row["metrics"]["image_auroc"] == {"mean": 0.9, "n": 1}
    assert row["gain"]["image_auroc"] == pytest.approx({"mean": 0.1, "n": 1})
    assert shown(one)[:6] == [
        "mvtec · bottle · shots=8",
        "method    image_auroc      aupro  adapt_s ms_per_image",
        "──────────────────────────────────────────────────────",
        "patchcore   0.800 (1)  0.400 (1) 10.0 (1)     12.0 (1)",
        "coft        0.900 (1)  0.450 (1) 10.0 (1)     12.0 (1)",
        "  gain     +0.100 (1) +0.050 (1)",
    ]


def test_an_average_is_over_the_categories_and_seeds_that_are_whole(shown: Any) -> None:
    results = [
        *(run("patchcore", seed, 0.8, category) for seed in (0, 1) for category in ("bottle", "screw", "tile")),
        *(
            run("coft", seed, auroc, category)
            for seed in (0, 1)
            for category, auroc in {"bottle": 0.9, "screw": 0.6}.items()
        ),
        run("coft", 2, 0.1, "bottle"),
    ]
    rows = summarise(results)
    baseline, coft = row_of(rows, "patchcore", "average"), row_of(rows, "coft", "average")
    assert baseline["num_categories"] == coft["num_categories"] == 2  # tile lacks coft
    assert baseline["metrics"]["image_auroc"] == pytest.approx({"mean": 0.8, "std": 0.0, "n": 2})
    assert coft["metrics"]["image_auroc"] == pytest.approx({"mean": 0.75, "std": 0.0, "n": 2})  # seed 2 lacks screw
    assert coft["gain"]["image_auroc"] == pytest.approx({"mean": -0.05, "std": 0.0, "n": 2})
    assert "mvtec · average over the common categories (2) · shots=8" in shown(results)


def test_a_metric_that_one_category_lacks_has_no_average() -> None:
    no_masks: dict[str, Any] = {"metrics": {"image_auroc": 0.5}, "undefined": {"aupro": "no masks"}}
    rows = summarise([run("coft", 0, 0.9), run("coft", 0, 0.5, "mono", **no_masks)])
    average = row_of(rows, "coft", "average")
    assert average["metrics"]["image_auroc"] == pytest.approx({"mean": 0.7, "n": 1})
    assert "aupro" not in average["metrics"]
    assert average["undefined"] == {"aupro": "no masks"}


def test_missing_and_undefined_cells(shown: Any) -> None:
    no_masks: dict[str, Any] = {"metrics": {"image_auroc": 0.5}, "undefined": {"aupro": "no masks"}}
    results = [run("patchcore", 0, 0.5, "mono", **no_masks), run("coft", 0, 0.8), run("patchcore", 0, 0.7)]
    lines = shown(results)
    mono = lines[lines.index("mvtec · mono · shots=8") :]
    assert mono[3].split() == ["patchcore", "0.500", "(1)", "n/a", "10.0", "(1)", "12.0", "(1)"]
    assert mono[4].split() == ["coft", "—", "—", "—", "—"]
    assert "n/a aupro: no masks" in lines


def test_protocols_are_never_mixed(shown: Any) -> None:
    larger = config(image_size=320, mean=None)
    results = [*THREE_SEEDS, *(run("coft", seed, 0.9, config=larger) for seed in (0, 1))]
    rows = summarise(results)
    assert row_of(rows, "coft")["gain"] == {}
    assert row_of(rows, "coft")["protocol"]["data"] == {"image_size": 320, "mean": None}
    assert not [row for row in rows if row["category"] == "average"]
    lines = shown(results, 120)
    assert [line for line in lines if line.startswith("Protocol")] == [
        "Protocol 1 of 2, not comparable: data.image_size = 256, data.mean = not set",
        "Protocol 2 of 2, not comparable: data.image_size = 320, data.mean = None",
    ]
    assert lines.count("mvtec · bottle · shots=8") == 2
    assert not [line for line in lines if line.startswith("  gain")]


def test_what_cannot_change_a_number_does_not_split_a_table() -> None:
    elsewhere = config(root="/elsewhere", num_workers=4, test_batch_size=1, category="bottle", seed=1)
    rows = summarise([*THREE_SEEDS, run("coft", 1, 0.9, config=elsewhere)])
    assert row_of(rows, "coft")["gain"]["image_auroc"]["n"] == 1


def test_other_support_images_are_another_protocol(shown: Any) -> None:
    other = run("coft", 0, 0.99, support={"paths": ["x.png"], "sha256": "abcdef" * 10})
    rows = summarise([*THREE_SEEDS, other])
    assert row_of(rows, "patchcore")["protocol"]["support"] == "shared"
    assert row_of(rows, "coft")["protocol"]["support"] == "abcdefabcdef"
    assert row_of(rows, "coft")["gain"] == {}
    assert "Protocol 1 of 2, not comparable: support = abcdefabcdef" in shown([*THREE_SEEDS, other])


def test_failed_runs_are_counted_and_listed(shown: Any) -> None:
    results = [*THREE_SEEDS, TWO_SEEDS[0], failed("coft", 1, "Traceback\n  ...\nRuntimeError: [red]no memory")]
    assert (row_of(summarise(results), "coft")["n"], row_of(summarise(results), "coft")["failed"]) == (1, 1)
    lines = shown(results)
    assert lines[-2:] == [
        "1 of 5 runs failed:",
        "  mvtec/bottle/coft/shots=8/seed=1: RuntimeError: [red]no memory",
    ]


def test_nothing_but_failures(shown: Any) -> None:
    early = failed("pf", 0, "boom", config={}, category="screw")
    lines = shown([failed("coft", 0, "boom"), early])
    assert lines[-2:] == ["  mvtec/bottle/coft/shots=8/seed=0: boom", "  mvtec/screw/pf/shots=8/seed=0: boom"]
    assert not [line for line in lines if "image_auroc" in line]
    assert [(row["n"], row["failed"], row["metrics"]) for row in summarise([early])] == [(0, 1, {})]


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two results are of one run"):
        summarise([*TWO_SEEDS, TWO_SEEDS[0]])


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_can_be_read_at(width: int, shown: Any) -> None:
    methods = ("patchcore", "coft", "gaussian", "a_method_with_a_very_long_name_indeed")
    results = [
        run(method, seed, 0.8 + seed / 30, timing={"adapt_s": 1234.5}) for method in methods for seed in range(3)
    ]
    lines = shown(results, width)
    assert lines[1].split() == ["method", "image_auroc", "aupro", "adapt_s", "ms_per_image"]
    text = " ".join(" ".join(lines).split())
    assert all(f"{method} 0.833 ± 0.033" in text for method in methods[:3])
    assert "1234 ± 0" in text
    names = "".join(line.split(" ")[0] for line in lines[3:])  # a long name goes on in the next line
    assert methods[3] in names


def test_the_best_is_bold_and_the_lowest_cost_is_the_best(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    results = [run("patchcore", 0, 0.8), run("coft", 0, 0.9, timing={"adapt_s": 60.0})]
    bold = re.findall(r"\x1b\[1m *([^\x1b]+)\x1b", "\n".join(shown(results, 200)))
    assert [text for text in bold if "(" in text] == ["10.0 (1)", "0.900 (1)", "0.450 (1)"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for result in [*THREE_SEEDS, *TWO_SEEDS, run("pf", 0, 0.7, shots=4)]:
        save(result, tmp_path)
    return tmp_path


def test_json_is_the_summary_at_full_precision(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(store), "--format", "json", "--shots", "8"]) == 0
    assert json.loads(capsys.readouterr().out) == summarise(THREE_SEEDS + TWO_SEEDS)


def test_options_choose(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choice = ["--methods", "coft", "--datasets", "mvtec", "--shots", "8", "--metrics", "aupro", "--format", "json"]
    assert main([str(store), *choice]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["method"], list(row["metrics"]), list(row["gain"])) for row in rows] == [
        ("coft", ["aupro"], ["aupro"]),
        ("patchcore", ["aupro"], []),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mehtods", "coft"], "--methods --datasets --shots --metrics --baseline --format"),
        (["--methods", "cofd"], "'coft', 'patchcore', 'pf'"),
        (["--baseline", "cofd"], "'coft', 'patchcore', 'pf'"),
        (["--datasets", "visa"], "'mvtec'"),
        (["--shots", "5"], "4, 8"),
        (["--metrics", "auroc"], "'adapt_s', 'aupro', 'image_auroc', 'ms_per_image'"),
        (["--format", "xml"], "'table', 'json'"),
        (["--methods", "coft", "--shots", "4"], "make bench METHOD=patchcore SHOTS=8"),
    ],
)
def test_a_mistake_gets_one_line_with_what_there_is(
    options: list[str], said: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main([str(store), *options])
    except SystemExit as stop:
        code = stop.code
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert said in error


def test_an_empty_store_and_a_damaged_file(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(store / "missing")]) == 2
    assert "make bench METHOD=patchcore SHOTS=8" in capsys.readouterr().err
    damaged = TWO_SEEDS[0].path_in(store)
    damaged.write_text(damaged.read_text()[:100])
    assert main([str(store)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert str(damaged) in error


def test_neither_torch_nor_lightning_is_imported(store: Path) -> None:
    heavy = "{'torch', 'lightning', 'torchmetrics', 'timm', 'wandb'}"
    ask = f"""
import sys
from anomaly_zoo.compare import main
try:
    main(["--help"])
except SystemExit:
    assert "pandas" not in sys.modules
main([{str(store)!r}])
assert not {heavy} & set(sys.modules)
"""
    assert (
        "image_auroc" in subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    )
