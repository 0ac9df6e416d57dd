"""From results to statements: the right images are paired, the right cells averaged, nothing is made up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from anomaly_zoo.compare.runs import frame
from anomaly_zoo.compare.significance import Level, RankTable, levels, rankings
from anomaly_zoo.compare.statistics import Spread, auroc_interval, delong, difference_interval, holm, placements, spread
from anomaly_zoo.compare.summary import ALL, AVERAGE, By
from anomaly_zoo.results import Result
from tests.runs import comparisons, config, run, scored, summarised


def pair(seed: int = 0, shift: float = 0.8, **changes: Any) -> list[Result]:
    """The baseline and a better method on 12 normal and 16 anomalous images."""
    rng = np.random.default_rng((seed, len(changes.get("category", ""))))
    base = np.concatenate([rng.normal(size=12), rng.normal(size=16) + 0.5])
    better = base + np.repeat([0.0, shift], [12, 16]) + rng.normal(scale=0.5, size=28)
    return [
        scored("frozen", seed, base.tolist(), 12, **changes),
        scored("coft", seed, better.tolist(), 12, **changes),
    ]


def levels_of(results: Sequence[Result]) -> list[Level]:
    return levels(frame(results))


def rankings_of(results: Sequence[Result]) -> list[RankTable]:
    return rankings(frame(results))


def spread_of(first: Sequence[Result], second: Sequence[Result]) -> Spread:
    """Of the means over seeds."""
    label = np.array([image["label"] for image in first[0].images])
    scores = [np.array([[image["score"] for image in run.images] for run in runs]) for runs in (first, second)]
    return spread(*(placements(seeds, label) for seeds in scores))


def test_a_comparison_is_that_of_the_scores_and_its_difference_is_the_gain() -> None:
    results = [*pair(0), *pair(1)]
    (row,) = comparisons(results)
    expected = spread_of(results[1::2], results[::2])
    assert (row["low"], row["high"]) == difference_interval(expected)
    assert (row["method"], row["n"], row["images"], row["num_categories"]) == ("coft", 2, 28, 1)
    assert row["difference"] == pytest.approx(expected.difference, abs=1e-6)
    assert row["p_delong"] == row["p_holm"] == pytest.approx(delong(expected), rel=1e-4)
    assert row["low"] < row["difference"] < row["high"]
    assert row["difference"] == pytest.approx(row["gain"]["image_auroc"]["mean"], abs=1e-6)


def test_images_are_paired_by_name_even_if_the_dataset_has_moved() -> None:
    base, better = pair()
    moved = [
        {**image, "path": image["path"].replace("/data", "D:\\elsewhere").replace("/", "\\")} for image in better.images
    ]
    shuffled = [moved[place] for place in np.random.default_rng(0).permutation(len(moved))]
    assert comparisons([base, replace(better, images=shuffled)]) == comparisons([base, better])


def test_nothing_is_said_of_other_images_seeds_protocols_or_too_few() -> None:
    base, better = pair()
    assert comparisons([base, replace(better, images=better.images[:-1])]) == []
    assert comparisons([base, replace(better, seed=1)]) == []
    assert comparisons([base, replace(better, config=config(image_size=320))]) == []
    assert comparisons([base, replace(better, images=[])]) == []
    assert comparisons([base]) == []
    one = [scored(method, 0, [0.1, 0.2, 0.3], 2) for method in ("frozen", "coft")]
    assert comparisons(one) == []


def test_averages_are_over_the_categories_that_all_methods_have() -> None:
    results = [
        *pair(category="a"),
        *pair(category="bb"),
        *pair(category="ccc")[:1],
        *pair(category="dddd", dataset="elpv"),
    ]
    rows = {(row["dataset"], row["category"]): row for row in comparisons(results)}
    assert set(rows) == {("mvtec", "a"), ("mvtec", "bb"), ("mvtec", AVERAGE), ("elpv", "dddd")}
    average = rows["mvtec", AVERAGE]
    assert average["num_categories"] == 2
    assert average["difference"] == pytest.approx(
        (rows["mvtec", "a"]["difference"] + rows["mvtec", "bb"]["difference"]) / 2
    )
    spread = average["high"] - average["low"]
    assert spread < max(rows["mvtec", name]["high"] - rows["mvtec", name]["low"] for name in ("a", "bb"))
    by_dataset = comparisons(results, by="dataset")
    assert [(row["dataset"], row["num_categories"]) for row in by_dataset] == [("elpv", 1), ("mvtec", 2), (ALL, 3)]
    (everywhere,) = comparisons(results, by="shots")
    assert everywhere == by_dataset[-1]


@pytest.mark.parametrize("by", ["category", "dataset", "shots"])
def test_the_difference_is_the_gain_in_averages_too(by: By) -> None:
    results = [run for name in ("a", "bb") for run in pair(category=name)] + pair(category="ccc", dataset="elpv")
    rows = [row for row in summarised(results, by=by) if row["method"] == "coft"]
    assert len(rows) == {"category": 4, "dataset": 3, "shots": 1}[by]
    for row in rows:
        assert row["gain"]["image_auroc"]["mean"] == pytest.approx(row["test"]["difference"], abs=1e-6)


def test_a_defect_is_set_against_all_normal_images() -> None:
    results = pair(per_defect={"crack": {"image_auroc": 0.5}, "dent": {"image_auroc": 0.5}})
    rows = comparisons(results, by="defect")
    assert [row["defect"] for row in rows] == ["crack", "dent"]
    assert [row["images"] for row in rows] == [20, 20]
    (whole,) = comparisons(results)
    assert np.mean([row["difference"] for row in rows]) == pytest.approx(whole["difference"])


def test_holm_is_over_what_stands_in_one_table() -> None:
    results = [run for name in ("a", "bb", "ccc") for run in pair(category=name, shift=0.3)]
    rows = comparisons(results)
    alone, average = [row for row in rows if row["category"] != AVERAGE], rows[-1]
    assert [row["p_holm"] for row in alone] == holm([row["p_delong"] for row in alone])
    assert average["p_holm"] == average["p_delong"]


def test_levels_are_over_the_same_categories_at_all_shots() -> None:
    results = [*pair(category="a"), *pair(category="a", shots=1), *pair(category="bb")]
    rows = levels_of(results)
    assert {row.num_categories for row in rows} == {1}
    assert len(rows) == 8  # two methods, two numbers of shots, the dataset and all datasets
    row = next(row for row in rows if row.method == "coft" and row.shots == 8)
    assert row.mean == pytest.approx(results[1].metrics["image_auroc"], abs=1e-6)
    assert row.low <= row.mean <= row.high
    assert levels_of([]) == []


def test_ranks_of_three_methods_by_hand() -> None:
    aurocs = {"frozen": (0.5, 0.6, 0.7, 0.8), "coft": (0.6, 0.7, 0.8, 0.7), "pf": (0.9, 0.9, 0.9, 0.9)}
    results = [
        run(method, seed, values[place], f"c{place}")
        for method, values in aurocs.items()
        for place in range(4)
        for seed in (0, 1)
    ]
    results += [run("frozen", 0, 0.1, "lonely"), run("frozen", 2, 0.0, "c0")]  # without the others
    auroc, aupro = rankings_of(results)
    assert (auroc["metric"], aupro["metric"], auroc["num_categories"]) == ("image_auroc", "aupro", 4)
    assert auroc["mean_ranks"] == {"coft": 2.25, "frozen": 2.75, "pf": 1.0}
    assert auroc["friedman_p"] == pytest.approx(stats.friedmanchisquare(*aurocs.values()).pvalue)
    # Of 16 patterns of signs, 5 have one or no minus (coft: four equal steps, one down), 1 has none (pf); each side
    assert auroc["wilcoxon_p_holm"] == pytest.approx({"coft": 2 * 5 / 16, "pf": 2 * (2 * 1 / 16)})


def test_ranks_need_two_methods_and_two_cells() -> None:
    assert rankings_of([run("frozen", 0, 0.5), run("coft", 0, 0.6)]) == []
    assert rankings_of([run("frozen", 0, 0.5), run("frozen", 0, 0.6, "screw")]) == []


def test_levels_have_the_interval_of_the_mean_over_seeds() -> None:
    results = [*pair(0), *pair(1)]
    (better,) = (row for row in levels_of(results) if row.method == "coft" and row.dataset == "mvtec")
    assert (better.low, better.high) == auroc_interval(spread_of(results[1::2], results[1::2]))
    lonely = replace(results[-1], seed=7, images=results[-1].images[1:])  # other images: not in the mean
    assert levels_of([*results, lonely]) == levels_of(results)
