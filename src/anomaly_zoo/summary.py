"""From runs to rows: mean, spread and gain of every method in every cell. Knows neither terminals nor files.

`frame` (a row per run) -> `averages` where asked for -> `summarise` (a row per method and cell). Runs whose protocol
differs (backbone, data options, precision, or other support images with the same seed) never meet in a row.
"""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from anomaly_zoo.results import Result, protocol

if TYPE_CHECKING:
    from pandas import DataFrame
else:  # pandas takes longer to import than the help may take to print, and annotations are evaluated
    DataFrame = Any

By = Literal["category", "dataset", "defect", "shots"]
BYS: tuple[By, ...] = get_args(By)
BASELINE = "frozen"
AVERAGE = "average"
ALL = "all datasets"
_GROUP = ["protocol", "dataset", "shots"]
_CELL = [*_GROUP, "category", "defect", "num_categories", "method"]
_COUNTS = ["trained", "kept_step_0"]
_RUN = [*_CELL, "seed", "failed", "undefined", *_COUNTS]


class Statistic(TypedDict, total=False):
    """`mean` over `n` seeds; `std` is the sample standard deviation (ddof = 1), absent when n = 1."""

    mean: float
    std: float
    n: int


class Summary(TypedDict):
    """One method in one cell of the comparison, over its seeds."""

    dataset: str  # `all datasets` for an average over them
    category: str  # `average`: the mean, seed by seed, over the categories that all methods beside this one have
    defect: str  # empty unless the cell is one kind of defect against all normal images
    num_categories: int  # what an average is over, elsewhere 1
    method: str
    shots: int
    n: int  # runs that succeeded
    failed: int  # runs that did not
    trained: int  # runs that made steps; an average counts those of all its categories
    kept_step_0: int  # of these, runs whose weights before training were kept
    metrics: dict[str, Statistic]  # every metric, time and resource that has a value
    gain: dict[str, Statistic]  # this method less the baseline with the same seed; empty without such pairs
    undefined: dict[str, str]  # metrics that cannot be computed here, each with the reason
    # Equal for all rows of a table. `support` is `shared`, or the start of the hash of their support list where these
    # runs adapted to other images than the baseline (without it: the first method) did with the same seed.
    protocol: dict[str, Any]


def protocols(results: Sequence[Result], baseline: str = BASELINE) -> list[dict[str, Any]]:
    """What `Summary.protocol` says, for every one of the results."""
    supports: dict[tuple[str, str, int, int], str] = {}
    for result in sorted(results, key=lambda result: (result.method != baseline, result.method)):
        if result.status == "ok":
            draw = (result.dataset, result.category, result.shots, result.seed)
            supports.setdefault(draw, result.support["sha256"])
    shown = []
    for result in results:
        sha256 = result.support["sha256"]
        draw = (result.dataset, result.category, result.shots, result.seed)
        shared = result.status == "failed" or supports[draw] == sha256
        shown.append({**protocol(result), "support": "shared" if shared else sha256[:12]})
    return shown


def frame(results: Sequence[Result], baseline: str = BASELINE) -> DataFrame:
    """One row per run: its cell (`protocol` as JSON), seed, failed and undefined, then a column per metric and cost.

    Raises:
        ValueError: if two results are of the same run.
    """
    import pandas as pd

    ordered = sorted(results, key=lambda result: (result.method != baseline, result.method))
    rows = []
    for result, shown in zip(ordered, protocols(ordered, baseline), strict=True):
        ok = result.status == "ok"
        text = json.dumps(shown, sort_keys=True)
        cell = (text, result.dataset, result.shots, result.category, "", 1, result.method)
        values = {**result.metrics, **result.timing, **result.resources} if ok else {}
        trained = result.training.get("steps", 0) > 0
        kept_step_0 = trained and result.training.get("kept_step") == 0
        run = (*cell, result.seed, not ok, result.undefined, int(trained), int(kept_step_0))
        rows.append({**dict(zip(_RUN, run, strict=True)), **values})
    runs: DataFrame = pd.DataFrame(rows)
    twice = runs.duplicated([*_CELL[1:], "seed"])
    if twice.any():
        run = runs[twice].iloc[0]
        name = f"{run['dataset']} {run['category']} {run['method']} shots={run['shots']} seed={run['seed']}"
        raise ValueError(f"two results are of one run: {name}; delete or move one of them")
    return runs


def defects(results: Sequence[Result], baseline: str = BASELINE) -> DataFrame:
    """Rows like those of `frame`, one per run and defect: the defect's images against all normal ones. No costs."""
    import pandas as pd

    runs = frame(results, baseline)
    of = {(r.dataset, r.category, r.method, r.shots, r.seed): r.per_defect for r in results}
    keys = ["dataset", "category", "method", "shots", "seed"]
    rows = [
        {**run, "defect": defect, **scores}
        for run in runs[_RUN].to_dict("records")
        for defect, scores in of[tuple(run[key] for key in keys)].items()
    ]
    parts: DataFrame = pd.DataFrame(rows, columns=None if rows else _RUN)
    return parts


def averages(runs: DataFrame) -> DataFrame:
    """Rows like those of `frame`, one per method and seed: the mean over the categories that all methods have.

    All averages of a table are over the same categories: a seed or a metric that a method lacks in one of them is left
    out. There are none where a dataset has a single category.
    """
    done = runs[~runs["failed"] & (runs.groupby(_GROUP)["category"].transform("nunique") > 1)]
    num_methods = done.groupby(_GROUP)["method"].transform("nunique")
    common = done[done.groupby([*_GROUP, "category"])["method"].transform("nunique") == num_methods]
    num_categories = common.groupby(_GROUP)["category"].transform("nunique")
    seeds = common.assign(category=AVERAGE, num_categories=num_categories).groupby([*_CELL, "seed", "failed"])
    size = seeds.size()
    values = seeds[_metrics(runs)].mean().where(seeds[_metrics(runs)].count().eq(size, axis=0))
    undefined: Any = [_merged(categories) for categories in seeds["undefined"].agg(list)] if len(size) else []
    whole = size == size.index.get_level_values("num_categories")
    counts = {name: seeds[name].sum() for name in _COUNTS}
    complete: DataFrame = values.assign(undefined=undefined, **counts)[whole].reset_index()
    return complete


def gains(runs: DataFrame, baseline: str) -> DataFrame:
    """The runs of the other methods, every value less the baseline's with the same seed (NaN without such a run)."""
    pair = [*_GROUP, "category", "defect", "seed"]
    others: DataFrame = runs[runs["method"] != baseline].copy()
    reference = runs[runs["method"] == baseline].set_index(pair)[_metrics(runs)]
    others[_metrics(runs)] -= reference.reindex(others.set_index(pair).index).to_numpy()
    return others


def summarise(
    results: Sequence[Result], baseline: str = BASELINE, by: By = "category", runs: DataFrame | None = None
) -> list[Summary]:
    """Mean, spread and gain over `baseline` of every method in every cell.

    Args:
        results: of any methods and datasets.
        baseline: the method that gains refer to.
        by: `category`: every category, then the average over those of a dataset. `dataset`: these averages (a single
            category stands for itself), then the average over datasets. `defect`: every kind of defect. `shots`: the
            average over all categories of all datasets, for every number of shots.
        runs: the `frame` of the results, if it is there already.

    Raises:
        ValueError: if two results are of the same run.
    """
    if not results:
        return []
    rows = [row for part in _parts(results, baseline, by, runs) for row in _summaries(part, baseline)]
    return sorted(rows, key=lambda row: (row["dataset"] == ALL, row["dataset"], row["shots"], *_place(row)))


def _place(row: Summary) -> tuple[bool, str, str]:
    return row["category"] == AVERAGE, row["category"], row["defect"]


def _parts(results: Sequence[Result], baseline: str, by: By, runs: DataFrame | None) -> list[DataFrame]:
    if by == "defect":
        return [defects(results, baseline)]
    runs = frame(results, baseline) if runs is None else runs
    if by == "category":
        return [runs, averages(runs)]
    everywhere = averages(runs.assign(dataset=ALL, category=runs["dataset"] + "/" + runs["category"]))
    if by == "shots":
        return [everywhere if len(everywhere) else runs]
    alone = runs[runs.groupby(_GROUP)["category"].transform("nunique") == 1]
    datasets = [averages(runs), alone]
    return [*datasets, everywhere] if runs["dataset"].nunique() > 1 else datasets


def _metrics(runs: DataFrame) -> list[str]:
    return [name for name in runs.columns if name not in _RUN]


def _merged(several: Sequence[dict[str, str]]) -> dict[str, str]:
    return {name: reason for reasons in several for name, reason in reasons.items()}


def _summaries(runs: DataFrame, baseline: str) -> Iterator[Summary]:
    if not len(runs):
        return
    metrics, gain = _statistics(runs), _statistics(gains(runs, baseline))
    cells = runs.groupby(_CELL).agg(
        n=("failed", lambda failed: int((~failed).sum())), failed=("failed", "sum"), undefined=("undefined", list),
        **{name: (name, "sum") for name in _COUNTS},
    )  # fmt: skip
    parsed = {text: json.loads(text) for text in runs["protocol"].unique()}
    for cell, n, failed, undefined, *counts in cells.itertuples(name=None):
        row: Any = {**dict(zip(_CELL, cell, strict=True)), "n": int(n), "failed": int(failed)}
        row |= {name: int(count) for name, count in zip(_COUNTS, counts, strict=True)}
        row |= {name: int(row[name]) for name in ("shots", "num_categories")}  # numpy's integers are not JSON's
        row |= {"metrics": metrics.get(cell, {}), "gain": gain.get(cell, {}), "undefined": _merged(undefined)}
        yield row | {"protocol": parsed[row["protocol"]]}


def _statistics(runs: DataFrame) -> dict[Any, dict[str, Statistic]]:
    """For every cell the statistic of each metric that has a value."""
    metrics = _metrics(runs)
    groups = runs.groupby(_CELL)[metrics]
    counted = groups.count()
    tables = [table.to_numpy().tolist() for table in (groups.mean(), groups.std(), counted)]
    found: dict[Any, dict[str, Statistic]] = {}
    for cell, means, stds, counts in zip(counted.index, *tables, strict=True):
        found[cell] = {
            name: Statistic(mean=mean, std=std, n=int(n)) if n > 1 else Statistic(mean=mean, n=int(n))
            for name, mean, std, n in zip(metrics, means, stds, counts, strict=True)
            if n
        }
    return found
