"""From the per-image scores of many runs to statements on methods: by how much, how surely, and in what order.

`comparisons` sets every method beside the baseline on the same test images, cell by cell; `rankings` ranks all methods
over the cells. The mathematics is in `statistics.py` and `ranks.py`.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from anomaly_zoo.pairs import Cell, Pair, Scored, pair_up, score
from anomaly_zoo.ranks import rank, wilcoxon
from anomaly_zoo.results import Result
from anomaly_zoo.statistics import auroc_interval, delong, difference_interval, holm, spread
from anomaly_zoo.summary import ALL, AVERAGE, BASELINE, By, frame

if TYPE_CHECKING:
    from pandas import DataFrame
else:  # annotations are evaluated, and pandas is not needed before there are results
    DataFrame = Any


class Comparison(TypedDict):
    """The image AUROC of a method less that of the baseline, over the seeds that both have."""

    dataset: str
    category: str
    defect: str
    num_categories: int
    shots: int
    method: str
    n: int  # seeds
    images: int
    difference: float
    low: float  # of the 95 % bootstrap interval
    high: float
    p_delong: float
    p_holm: float  # corrected over all comparisons of the same dataset and shots; averages are a family of their own
    protocol: dict[str, Any]


class Level(TypedDict):
    """The image AUROC of one method, averaged over the categories that all methods have at all numbers of shots."""

    dataset: str
    num_categories: int
    shots: int
    method: str
    mean: float
    low: float  # of the 95 % bootstrap interval
    high: float


class RankTable(TypedDict):
    """All methods ranked over the cells that all of them have, for one metric and number of shots."""

    metric: str
    shots: int
    num_cells: int
    mean_ranks: dict[str, float]
    friedman_p: float | None
    critical_difference: float
    wilcoxon_p_holm: dict[str, float]  # of every other method against the baseline
    protocol: dict[str, Any]


def comparisons(results: Sequence[Result], baseline: str = BASELINE, by: By = "category") -> list[Comparison]:
    """Every method beside the baseline, in the cells that `summary.summarise` has for the same `by`.

    A comparison needs the same seeds, the same test images, and two images of each kind; without these it is left out.

    Raises:
        ValueError: if two results are of the same run.
    """
    rows: list[Comparison] = []
    for (protocol, shots), methods in pair_up(results, baseline).items():
        for (dataset, category, defect), cells in _cells(methods, by):
            for method, pairs in methods.items():
                found = _comparison([pairs[cell] for cell in cells if cell in pairs], len(cells), defect)
                if found is not None:
                    name = {"dataset": dataset, "category": category, "defect": defect, "shots": shots}
                    rows.append({**name, "method": method, **found, "protocol": json.loads(protocol)})  # type: ignore[typeddict-item]
    families = defaultdict(list)
    for row in rows:
        families[json.dumps(row["protocol"]), row["dataset"], row["shots"], row["category"] == AVERAGE].append(row)
    for family in families.values():
        for row, p_value in zip(family, holm([row["p_delong"] for row in family]), strict=True):
            row["p_holm"] = p_value
    return sorted(
        rows,
        key=lambda r: (
            r["dataset"] == ALL,
            r["dataset"],
            r["shots"],
            r["category"] == AVERAGE,
            r["category"],
            r["defect"],
        ),
    )


def levels(results: Sequence[Result]) -> list[Level]:
    """Accuracy against shots, for every dataset and for all together; for results of one protocol.

    Over seeds that may differ in number; categories with fewer than two images of a kind are left out.
    """
    by_shots: dict[int, list[Result]] = defaultdict(list)
    for run in results:
        by_shots[run.shots].append(run)
    placed: dict[tuple[int, str], dict[Cell, Scored]] = defaultdict(dict)
    for shots, runs in sorted(by_shots.items()):
        for (method, cell), scored in score(runs).items():
            placed[shots, method][cell] = scored
    common = sorted(set.intersection(*(set(cells) for cells in placed.values()))) if placed else []
    rows = []
    for (shots, method), cells in sorted(placed.items()):
        means = {cell: cells[cell].mean(sorted(cells[cell].scores)) for cell in common}
        spreads = {cell: spread(means[cell], means[cell]) for cell in common}
        for dataset in dict.fromkeys([*(cell[0] for cell in common), ALL]):
            over = [spreads[cell] for cell in common if dataset in (cell[0], ALL)]
            if not over:
                continue
            low, high = auroc_interval(over)
            mean = float(np.mean([part.aurocs[0] for part in over]))
            name = {"dataset": dataset, "num_categories": len(over), "shots": shots, "method": method}
            rows.append(Level(**name, mean=mean, low=low, high=high))  # type: ignore[typeddict-item]
    return rows


def rankings(
    results: Sequence[Result],
    baseline: str = BASELINE,
    metrics: Sequence[str] = ("image_auroc", "aupro"),
    runs: DataFrame | None = None,
) -> list[RankTable]:
    """Ranks over all cells of all datasets, where there are two methods and two cells; higher is better.

    Args:
        results: of any methods and datasets.
        baseline: what the signed ranks refer to.
        metrics: a table for each of them that exists.
        runs: the `frame` of the results, if it is there already.
    """
    tables = []
    runs = frame(results, baseline) if runs is None else runs
    for (protocol, shots), group in runs[~runs["failed"]].groupby(["protocol", "shots"]):
        for metric in metrics:
            if metric not in group:
                continue
            seeds = group.pivot_table(metric, ["dataset", "category", "seed"], "method").dropna()
            cells = seeds.groupby(level=["dataset", "category"]).mean()
            if min(cells.shape) < 2:
                continue
            names = [str(name) for name in cells.columns]
            ranking = rank(cells.to_numpy())
            others = [name for name in names if name != baseline] if baseline in names else []
            tested = holm([wilcoxon((cells[name] - cells[baseline]).to_numpy()) for name in others])
            tables.append(
                RankTable(
                    metric=metric,
                    shots=int(shots),
                    num_cells=len(cells),
                    mean_ranks=dict(zip(names, ranking.mean_ranks.tolist(), strict=True)),
                    friedman_p=ranking.friedman_p,
                    critical_difference=ranking.critical_difference,
                    wilcoxon_p_holm=dict(zip(others, tested, strict=True)),
                    protocol=json.loads(str(protocol)),
                )
            )
    return tables


def _cells(methods: dict[str, dict[Cell, Pair]], by: By) -> Iterator[tuple[tuple[str, str, str], list[Cell]]]:
    """Dataset, category and defect of a row, and the cells that it is a mean over."""
    everywhere = sorted({cell for pairs in methods.values() for cell in pairs})
    if by == "defect":
        for dataset, category in everywhere:
            some = next(pairs[dataset, category] for pairs in methods.values() if (dataset, category) in pairs)
            for defect in sorted(set(some.method.images.defects.tolist())):
                yield (dataset, category, defect), [(dataset, category)]
        return
    common = [cell for cell in everywhere if all(cell in pairs for pairs in methods.values())]
    datasets = sorted({dataset for dataset, _ in everywhere})
    for dataset in datasets:
        alone = [cell for cell in everywhere if cell[0] == dataset]
        if by == "category" or (by == "dataset" and len(alone) == 1):
            for cell in alone:
                yield (*cell, ""), [cell]
        shared = [cell for cell in common if cell[0] == dataset]
        if by in ("category", "dataset") and len(alone) > 1 and shared:
            yield (dataset, AVERAGE, ""), shared
    if common and len(everywhere) > 1 and (by == "shots" or (by == "dataset" and len(datasets) > 1)):
        yield (ALL, AVERAGE, ""), common


def _comparison(pairs: Sequence[Pair], num_cells: int, defect: str) -> dict[str, Any] | None:
    """Difference, interval and test of the mean over the cells; None where a cell or all common seeds are missing."""
    if len(pairs) < num_cells or not pairs:
        return None
    seeds = sorted(set.intersection(*(pair.seeds for pair in pairs)))
    spreads = [part for pair in pairs if seeds and (part := pair.spread(seeds, defect)) is not None]
    if len(spreads) < len(pairs):
        return None
    test = delong(spreads)
    low, high = difference_interval(spreads)
    return {
        "num_categories": num_cells,
        "n": len(seeds),
        "images": sum(sum(part.num_images) for part in spreads),
        "difference": test.estimate,
        "low": low,
        "high": high,
        "p_delong": test.p_value,
    }
