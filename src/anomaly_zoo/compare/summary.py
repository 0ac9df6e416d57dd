"""From the table of runs to a row per method and group: mean, spread, and gain over the baseline."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypedDict

import pandas as pd

from anomaly_zoo.compare.runs import COLUMNS, COUNTS, KEYS, Protocol, measured
from anomaly_zoo.measures import BASELINE

By = Literal["category", "dataset", "defect", "shots"]
AVERAGE = "average"
ALL = "all datasets"
_TABLE = ["protocol", "dataset", "shots"]


class Statistic(TypedDict, total=False):
    """`mean` over `n` seeds; `std` is the sample standard deviation (ddof = 1), absent when n = 1."""

    mean: float
    std: float
    n: int


class Summary(TypedDict):
    """One method in one group of the comparison, over its seeds; what `--format json` prints."""

    protocol: Protocol  # equal for all rows of a table, see `runs.frame`
    dataset: str  # `all datasets` for an average over them
    shots: int
    category: str  # `average`: the mean, seed by seed, over the categories that all methods beside this one have
    defect: str  # empty unless the group is one kind of defect against all normal images
    num_categories: int  # what an average is over, elsewhere 1
    method: str
    n: int  # runs that succeeded
    failed: int  # runs that did not
    trained: int  # runs that made steps; an average counts those of all its categories
    kept_step_0: int  # of these, runs whose weights before training were kept
    metrics: dict[str, Statistic]  # every metric, time and resource that has a value
    gain: dict[str, Statistic]  # this method less the baseline with the same seed; empty without such pairs
    undefined: dict[str, str]  # metrics that cannot be computed here, each with the reason


def summarise(runs: pd.DataFrame, baseline: str = BASELINE, by: By = "category") -> list[Summary]:
    """Mean, spread and gain over `baseline` of every method in every group of the table of `runs.frame`.

    `by` `category`: every category, then the average over those of a dataset; `dataset`: these averages (a single
    category stands for itself), then that over datasets; `defect`: every kind of defect; `shots`: the average over all
    categories of all datasets, for every number of shots.
    """
    rows = [row for part in _parts(runs, by) if len(part) for row in _summaries(part, baseline)]
    return sorted(rows, key=lambda row: place(row))


def place(row: Any) -> tuple[Any, ...]:
    """Where a row of a summary or a comparison stands: averages come last."""
    average = row["category"] == AVERAGE
    return row["dataset"] == ALL, row["dataset"], row["shots"], average, row["category"], row["defect"]


def _parts(runs: pd.DataFrame, by: By) -> list[pd.DataFrame]:
    if by == "defect":
        return [_defects(runs)]
    if by == "category":
        return [runs, _averages(runs)]
    everywhere = _averages(runs.assign(dataset=ALL, category=runs["dataset"] + "/" + runs["category"]))
    if by == "shots":
        return [everywhere if len(everywhere) else runs]
    alone = runs[runs.groupby(_TABLE)["category"].transform("nunique") == 1]
    return [_averages(runs), alone, *([everywhere] if runs["dataset"].nunique() > 1 else [])]


def _defects(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and defect: the scores of the defect's images against all normal ones. No costs."""
    every: Any = runs[COLUMNS].to_dict("records")
    found: pd.DataFrame = pd.DataFrame(
        {**run, "defect": defect, **scores} for run in every for defect, scores in run["result"].per_defect.items()
    )
    return found


def _averages(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per method and seed: the mean over the categories that all methods have; none for a single category.

    A seed or a metric that a method lacks in one of them is left out.
    """
    done = runs[(runs["n"] == 1) & (runs.groupby(_TABLE)["category"].transform("nunique") > 1)]
    num_methods = done.groupby(_TABLE)["method"].transform("nunique")
    common: pd.DataFrame = done[done.groupby([*_TABLE, "category"])["method"].transform("nunique") == num_methods]
    if common.empty:
        return common
    num_categories = common.groupby(_TABLE)["category"].transform("nunique")
    seeds = common.assign(category=AVERAGE, num_categories=num_categories).groupby([*KEYS, "seed"])
    size, names = seeds.size(), measured(runs)
    means = seeds[names].mean().where(seeds[names].count().eq(size, axis=0))
    undefined: Any = [_merged(several) for several in seeds["undefined"].agg(list)]
    averages = seeds[COUNTS].sum().assign(n=1, undefined=undefined).join(means)
    whole: pd.DataFrame = averages[size == size.index.get_level_values("num_categories")].reset_index()
    return whole


def _gains(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The runs of the other methods, every value less the baseline's with the same seed (NaN without such a run)."""
    pair, names = [*_TABLE, "category", "defect", "seed"], measured(runs)
    others: pd.DataFrame = runs[runs["method"] != baseline].copy()
    reference = runs[runs["method"] == baseline].set_index(pair)[names]
    others[names] -= reference.reindex(others.set_index(pair).index).to_numpy()
    return others


def _summaries(runs: pd.DataFrame, baseline: str) -> Iterator[Summary]:
    metrics, gain = _statistics(runs), _statistics(_gains(runs, baseline))
    groups = runs.groupby(KEYS)
    for row, undefined in zip(groups[COUNTS].sum().reset_index().to_dict("records"), groups["undefined"], strict=True):
        key: Any = tuple(row[name] for name in KEYS)
        found: Any = {**row, "metrics": metrics.get(key, {}), "gain": gain.get(key, {})}
        yield found | {"undefined": _merged(undefined[1])}


def _statistics(runs: pd.DataFrame) -> dict[tuple[Any, ...], dict[str, Statistic]]:
    names = measured(runs)
    groups = runs.groupby(KEYS)[names]
    counted = groups.count()
    tables = [table.to_numpy().tolist() for table in (groups.mean(), groups.std(), counted)]
    found = {}
    for key, *values in zip(counted.index, *tables, strict=True):
        found[key] = {
            name: Statistic(mean=mean, std=std, n=int(n)) if n > 1 else Statistic(mean=mean, n=int(n))
            for name, mean, std, n in zip(names, *values, strict=True)
            if n
        }
    return found


def _merged(several: Iterable[dict[str, str]]) -> dict[str, str]:
    return {name: reason for reasons in several for name, reason in reasons.items()}
