"""Means, spreads, gains and averages, checked by hand."""

from typing import Any

import pytest

from anomaly_zoo.compare.summary import ALL
from tests.runs import NO_MASKS, THREE_SEEDS, TWO_SEEDS, config, row_of, run, summarised, trained


def test_mean_spread_and_paired_gain_by_hand() -> None:
    rows = summarised(THREE_SEEDS + TWO_SEEDS)
    assert [row["category"] for row in rows] == ["bottle", "bottle"]
    baseline, coft = row_of(rows, "frozen"), row_of(rows, "coft")
    assert (baseline["n"], coft["n"], coft["failed"], coft["num_categories"]) == (3, 2, 0, 1)
    assert baseline["metrics"]["image_auroc"] == pytest.approx({"mean": 0.82, "std": 0.02, "n": 3}, abs=1e-15)
    assert coft["metrics"]["image_auroc"] == pytest.approx({"mean": 0.88, "std": 0.02 * 2**0.5, "n": 2}, abs=1e-15)
    # +0.10 on seed 0 and +0.04 on seed 1; the baseline's third seed has no partner.
    assert coft["gain"]["image_auroc"] == pytest.approx({"mean": 0.07, "std": 0.03 * 2**0.5, "n": 2}, abs=1e-15)
    assert coft["metrics"]["adapt_s"] == pytest.approx({"mean": 10.5, "std": 0.5**0.5, "n": 2})
    assert baseline["gain"] == {}


def test_runs_that_kept_step_0_are_counted_in_averages_too() -> None:
    results = [
        *(trained("coft", seed, kept, category="screw") for seed, kept in ((0, 0), (1, 5))),
        *(trained("coft", seed, 0, category="tile") for seed in (0, 1)),
        *(run("frozen", seed, 0.8, category) for seed in (0, 1) for category in ("screw", "tile")),
    ]
    for category, counts in {"screw": (2, 1), "tile": (2, 2)}.items():
        row = row_of(summarised(results), "coft", category)
        assert (row["trained"], row["kept_step_0"]) == counts
    average = row_of(summarised(results, by="dataset"), "coft", "average")
    assert (average["n"], average["trained"], average["kept_step_0"]) == (2, 4, 3)
    baseline = row_of(summarised(results, by="dataset"), "frozen", "average")
    assert (baseline["trained"], baseline["kept_step_0"]) == (0, 0)


def test_another_baseline_or_none() -> None:
    assert row_of(summarised(THREE_SEEDS + TWO_SEEDS, "coft"), "frozen")["gain"]["aupro"]["mean"] == pytest.approx(
        -0.035
    )
    assert row_of(summarised(TWO_SEEDS), "coft")["gain"] == {}


def test_a_metric_that_one_category_lacks_has_no_average() -> None:
    rows = summarised([run("coft", 0, 0.9), run("coft", 0, 0.5, "mono", **NO_MASKS)])
    average = row_of(rows, "coft", "average")
    assert average["metrics"]["image_auroc"] == pytest.approx({"mean": 0.7, "n": 1})
    assert "aupro" not in average["metrics"]
    assert average["undefined"] == {"aupro": "no masks"}


def test_what_cannot_change_a_number_does_not_split_a_table() -> None:
    elsewhere = config(root="/elsewhere", num_workers=4, test_batch_size=1, category="bottle", seed=1)
    rows = summarised([*THREE_SEEDS, run("coft", 1, 0.9, config=elsewhere)])
    assert row_of(rows, "coft")["gain"]["image_auroc"]["n"] == 1


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two results are of one run"):
        summarised([*TWO_SEEDS, TWO_SEEDS[0]])


def test_by_dataset_a_single_category_stands_for_itself() -> None:
    results = [
        run("coft", 0, 0.9),
        run("coft", 0, 0.7, "screw"),
        run("coft", 0, 0.5, "mono", dataset="elpv"),
        run("coft", 0, 0.3, "mono", dataset="elpv", shots=4),
    ]
    rows = summarised(results, by="dataset")
    found = [(row["dataset"], row["category"], row["shots"], row["num_categories"]) for row in rows]
    assert found == [("elpv", "mono", 4, 1), ("elpv", "mono", 8, 1), ("mvtec", "average", 8, 2), (ALL, "average", 8, 3)]
    means = [row["metrics"]["image_auroc"]["mean"] for row in rows]
    assert means == pytest.approx([0.3, 0.5, 0.8, 0.7])


def test_by_shots_is_over_all_categories_that_all_methods_have() -> None:
    results = [
        run(method, 0, auroc + gain + shots / 100, category, dataset=dataset, shots=shots)
        for method, gain in (("frozen", 0.0), ("coft", 0.1))
        for dataset, category, auroc in (("mvtec", "bottle", 0.8), ("mvtec", "screw", 0.4), ("elpv", "mono", 0.6))
        for shots in (1, 8)
    ]
    rows = summarised([*results, run("frozen", 0, 0.0, "poly", dataset="elpv")], by="shots")
    assert [(row["shots"], row["method"], row["num_categories"]) for row in rows] == [
        (1, "coft", 3),
        (1, "frozen", 3),
        (8, "coft", 3),
        (8, "frozen", 3),
    ]
    assert [row["metrics"]["image_auroc"]["mean"] for row in rows] == pytest.approx([0.71, 0.61, 0.78, 0.68])
    assert rows[0]["gain"]["image_auroc"]["mean"] == pytest.approx(0.1)


def test_by_defect_has_the_scores_of_every_defect_and_no_costs() -> None:
    parts: dict[str, Any] = {"crack": {"image_auroc": 0.9}, "dent": {"image_auroc": 0.5, "aupro": 0.2}}
    rows = summarised([run(m, 0, 0.7, per_defect=parts) for m in ("frozen", "coft")], by="defect")
    assert [(row["defect"], row["method"]) for row in rows] == [
        ("crack", "coft"),
        ("crack", "frozen"),
        ("dent", "coft"),
        ("dent", "frozen"),
    ]
    assert rows[2]["metrics"] == {"image_auroc": {"mean": 0.5, "n": 1}, "aupro": {"mean": 0.2, "n": 1}}
    assert rows[2]["gain"]["aupro"]["mean"] == 0.0
    assert summarised([run("coft", 0, 0.5)], by="defect") == []
