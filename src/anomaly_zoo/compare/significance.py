"""How sure the summary is, from the scores of single test images. The mathematics is in `statistics.py`."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from anomaly_zoo.compare import statistics
from anomaly_zoo.compare.runs import Protocol
from anomaly_zoo.compare.statistics import Spread
from anomaly_zoo.compare.summary import ALL, AVERAGE, Summary
from anomaly_zoo.measures import BASELINE, MAIN_SCORES
from anomaly_zoo.results import ImageScore

Category = tuple[str, str]  # dataset, category
_PATH, _SCORE = itemgetter("path"), itemgetter("score")


class Comparison(TypedDict):
    """The image AUROC of a method less that of the baseline, over the seeds that both have."""

    difference: float
    low: float  # of the 95 % bootstrap interval
    high: float
    p_delong: float
    p_holm: float  # corrected over all comparisons of the same dataset and shots; averages are a family of their own
    images: int
    n: int  # seeds


class Compared(Summary, total=False):
    """A row of the summary with its comparison, where there is one."""

    test: Comparison


class Level(NamedTuple):
    """The image AUROC of one method, averaged over the categories that all methods have at all numbers of shots."""

    dataset: str
    num_categories: int
    shots: int
    method: str
    mean: float
    low: float  # of the 95 % bootstrap interval
    high: float


class RankTable(TypedDict):
    """All methods ranked over the categories that all of them have, for one metric and number of shots."""

    metric: str
    shots: int
    num_categories: int
    mean_ranks: dict[str, float]
    friedman_p: float | None
    critical_difference: float
    wilcoxon_p_holm: dict[str, float]  # of every other method against the baseline
    protocol: Protocol


class Scores(NamedTuple):
    """The image scores of one category: of every method and seed, on the same test images in the same order."""

    label: Bool[np.ndarray, " images"]
    defects: np.ndarray  # of the anomalous images
    seeds: dict[str, dict[int, Float[np.ndarray, " images"]]]  # of a method

    def placements(self, method: str, seeds: Sequence[int]) -> Float[np.ndarray, "a n"]:
        """Averaged over seeds."""
        return statistics.placements(np.stack([self.seeds[method][seed] for seed in seeds]), self.label)


def add_tests(summary: Sequence[Summary], runs: pd.DataFrame, baseline: str = BASELINE) -> list[Compared]:
    """The rows of a summary, each with a `test` if its method and the baseline share seeds and test images there.

    Averages are over the categories in which every method that can be compared at all can be.
    """
    groups = runs.groupby(["protocol", "shots"])
    testers: dict[Any, Any] = {key: _tester(_scores(group), baseline) for key, group in groups}
    rows: list[Any] = [{**row} for row in summary]
    families = defaultdict(list)
    for row in rows:
        table = (row["protocol"], row["shots"])
        if test := testers[table](row):
            row["test"] = test
            families[table, row["dataset"], row["category"] == AVERAGE].append(test)
    for family in families.values():
        for test, p_value in zip(family, statistics.holm([test["p_delong"] for test in family]), strict=True):
            test["p_holm"] = p_value
    return rows


def _tester(scores: dict[Category, Scores], baseline: str) -> Callable[[Summary], Comparison | None]:
    """Makes the comparison of a row, not yet corrected, from the scores of one protocol and number of shots."""
    shared: dict[str, dict[Category, set[int]]] = defaultdict(dict)  # the seeds that a method shares with the baseline
    for category, found in scores.items():
        for method in found.seeds.keys() - {baseline}:
            if seeds := found.seeds[method].keys() & found.seeds.get(baseline, {}).keys():
                shared[method][category] = seeds
    common = sorted(set.intersection(*map(set, shared.values()))) if shared else []

    # Kept, since the baseline stands beside every method, and a category counts for itself and in averages
    placements = cache(lambda category, method, seeds: scores[category].placements(method, seeds))

    @cache
    def spread(category: Category, method: str, seeds: tuple[int, ...], defect: str) -> Spread | None:
        rows = scores[category].defects == defect if defect else slice(None)
        pair = [placements(category, name, seeds)[rows] for name in (method, baseline)]
        return statistics.spread(*pair) if len(pair[0]) >= 2 else None

    def test(row: Summary) -> Comparison | None:
        over = [(row["dataset"], row["category"])]
        if row["category"] == AVERAGE:
            over = [category for category in common if row["dataset"] in (category[0], ALL)]
        have = shared.get(row["method"], {})
        seeds = tuple(sorted(set.intersection(*(have.get(category, set()) for category in over)))) if over else ()
        spreads = [
            part for category in over if seeds and (part := spread(category, row["method"], seeds, row["defect"]))
        ]
        if not seeds or len(spreads) < len(over):
            return None
        whole = statistics.mean(spreads)
        low, high = statistics.difference_interval(whole)
        p_value = statistics.delong(whole)
        return Comparison(
            difference=whole.difference, low=low, high=high, p_delong=p_value, p_holm=p_value,
            images=sum(whole.num_images), n=len(seeds),
        )  # fmt: skip

    return test


def levels(runs: pd.DataFrame) -> list[Level]:
    """Accuracy against shots, for every dataset and for all together, over any seeds; for runs of one protocol."""
    placed: dict[tuple[int, str], dict[Category, Scores]] = defaultdict(dict)
    for shots, group in runs.groupby("shots"):
        for category, scores in _scores(group).items():
            for method in scores.seeds:
                placed[int(str(shots)), method][category] = scores
    common = sorted(set.intersection(*map(set, placed.values()))) if placed else []
    rows = []
    for (shots, method), found in sorted(placed.items()):
        means = [found[category].placements(method, sorted(found[category].seeds[method])) for category in common]
        spreads = dict(zip(common, (statistics.spread(mean, mean) for mean in means), strict=True))
        for dataset in dict.fromkeys([*(category[0] for category in common), *([ALL] if common else [])]):
            over = statistics.mean(part for category, part in spreads.items() if dataset in (category[0], ALL))
            count = sum(dataset in (category[0], ALL) for category in common)
            rows.append(Level(dataset, count, shots, method, float(over.aurocs[0]), *statistics.auroc_interval(over)))
    return rows


def rankings(runs: pd.DataFrame, baseline: str = BASELINE) -> list[RankTable]:
    """Ranks by the main scores over all categories of all datasets, where there are two methods and two categories."""
    tables = []
    for (protocol, shots), group in runs[runs["n"] == 1].groupby(["protocol", "shots"]):
        for metric in (name for name in MAIN_SCORES if name in group):
            seeds = group.pivot_table(metric, ["dataset", "category", "seed"], "method").dropna()
            categories = seeds.groupby(level=["dataset", "category"]).mean()
            if min(categories.shape) < 2:
                continue
            names = [str(name) for name in categories.columns]
            ranking = statistics.rank(categories.to_numpy())
            others = [name for name in names if name != baseline] if baseline in names else []
            tested = [statistics.wilcoxon((categories[name] - categories[baseline]).to_numpy()) for name in others]
            table = RankTable(
                metric=metric,
                shots=int(shots),
                num_categories=len(categories),
                mean_ranks=dict(zip(names, ranking.mean_ranks.tolist(), strict=True)),
                friedman_p=ranking.friedman_p,
                critical_difference=ranking.critical_difference,
                wilcoxon_p_holm=dict(zip(others, statistics.holm(tested), strict=True)),
                protocol=protocol,
            )
            tables.append(table)
    return tables


def _scores(runs: pd.DataFrame) -> dict[Category, Scores]:
    """In categories with two images of each kind; runs with other images than a category's first run are left out."""
    found: dict[Category, Scores] = {}
    paths: dict[Category, list[str]] = {}
    for run in runs.loc[runs["n"] == 1, "result"]:
        category = (run.dataset, run.category)
        if category not in found and run.images:
            label = np.array([image["label"] for image in run.images], dtype=bool)
            defects = np.array([image["defect"] for image in run.images if image["label"]])
            found[category] = Scores(label, defects, defaultdict(dict))
            paths[category] = list(map(_PATH, run.images))
        if run.images and (images := _in_order(run.images, paths[category])):
            found[category].seeds[run.method][run.seed] = np.fromiter(map(_SCORE, images), np.float64, len(images))
    return {name: scores for name, scores in found.items() if 2 <= scores.label.sum() <= len(scores.label) - 2}


def _in_order(images: list[ImageScore], paths: list[str]) -> list[ImageScore] | None:
    """The images in the order of these paths, whose root may differ; None if they are not the same images."""
    if list(map(_PATH, images)) == paths:
        return images
    named, keys = {image_key(image["path"]): image for image in images}, list(map(image_key, paths))
    same = len(named) == len(images) and named.keys() == set(keys)
    return [named[key] for key in keys] if same else None


def image_key(path: str) -> str:
    """What stays of an image's path when the dataset is moved: `test/<defect>/<file>`.

    >>> image_key("/data/mvtec/bottle/test/crack/0.png")
    'test/crack/0.png'
    """
    return "/".join(path.replace("\\", "/").rsplit("/", 3)[-3:])
