"""Compares methods from the results store: `python -m anomaly_zoo.compare [RESULTS]`. Needs neither torch nor a GPU.

One straight line: `load_all` -> `frame` (a row per run) -> `summarise` (a row per method and cell) -> tables or JSON.
Runs whose protocol differs (backbone, data options, precision, or other support images with the same seed) never share
a table. `--format json` prints the list that `summarise` returns; `Summary` documents its layout.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import groupby, product
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_zoo.results import Result, conflicting_keys, load_all, protocol

if TYPE_CHECKING:
    from pandas import DataFrame
else:  # pandas takes longer to import than the help may take to print, and annotations are evaluated
    DataFrame = Any

BASELINE = "patchcore"
METRICS = ("image_auroc", "aupro", "adapt_s", "ms_per_image")
AVERAGE = "average"
_GROUP = ["protocol", "dataset", "shots"]
_CELL = [*_GROUP, "category", "num_categories", "method"]
_RUN = [*_CELL, "seed", "failed", "undefined"]
_VALUES = ("metrics", "timing", "resources")


class Statistic(TypedDict, total=False):
    """`mean` over `n` seeds; `std` is the sample standard deviation (ddof = 1), absent when n = 1."""

    mean: float
    std: float
    n: int


class Summary(TypedDict):
    """One method in one cell of the comparison, over its seeds."""

    dataset: str
    category: str  # `average`: the mean, seed by seed, over the categories that all methods beside this one have
    num_categories: int  # what an average is over, elsewhere 1
    method: str
    shots: int
    n: int  # runs that succeeded
    failed: int  # runs that did not
    metrics: dict[str, Statistic]  # every metric, time and resource that has a value
    gain: dict[str, Statistic]  # this method less the baseline with the same seed; empty without such pairs
    undefined: dict[str, str]  # metrics that cannot be computed here, each with the reason
    # Equal for all rows of a table. `support` is `shared`, or the start of the hash of their support list where these
    # runs adapted to other images than the baseline (without it: the first method) did with the same seed.
    protocol: dict[str, Any]


def frame(results: Sequence[Result], baseline: str = BASELINE) -> DataFrame:
    """One row per run: its cell (`protocol` as JSON), seed, failed and undefined, then a column per metric and cost.

    Raises:
        ValueError: if two results are of the same run.
    """
    import pandas as pd

    supports: dict[tuple[str, str, int, int], str] = {}
    rows = []
    for result in sorted(results, key=lambda result: (result.method != baseline, result.method)):
        ok, sha256 = result.status == "ok", result.support["sha256"]
        draw = (result.dataset, result.category, result.shots, result.seed)
        shared = not ok or supports.setdefault(draw, sha256) == sha256
        shown = json.dumps({**protocol(result), "support": "shared" if shared else sha256[:12]}, sort_keys=True)
        cell = (shown, result.dataset, result.shots, result.category, 1, result.method)
        values = {**result.metrics, **result.timing, **result.resources} if ok else {}
        rows.append({**dict(zip(_RUN, (*cell, result.seed, not ok, result.undefined), strict=True)), **values})
    runs: DataFrame = pd.DataFrame(rows)
    if runs.duplicated([*_CELL[1:], "seed"]).any():
        raise ValueError("two results are of one run: the same dataset, category, method, shots and seed")
    return runs


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
    undefined: Any = [_merged(categories) for _, categories in seeds]
    whole = size == size.index.get_level_values("num_categories")
    complete: DataFrame = values.assign(undefined=undefined)[whole].reset_index()
    return complete


def gains(runs: DataFrame, baseline: str) -> DataFrame:
    """The runs of the other methods, every value less the baseline's with the same seed (NaN without such a run)."""
    pair = [*_GROUP, "category", "seed"]
    others: DataFrame = runs[runs["method"] != baseline].copy()
    reference = runs[runs["method"] == baseline].set_index(pair)[_metrics(runs)]
    others[_metrics(runs)] -= reference.reindex(others.set_index(pair).index).to_numpy()
    return others


def summarise(results: Sequence[Result], baseline: str = BASELINE) -> list[Summary]:
    """Mean, spread and gain over `baseline` of every method in every cell, then the averages over categories.

    Raises:
        ValueError: if two results are of the same run.
    """
    if not results:
        return []
    runs = frame(results, baseline)
    rows = [row for part in (runs, averages(runs)) for row in _summaries(part, baseline)]
    return sorted(rows, key=lambda row: (row["dataset"], row["shots"], row["category"] == AVERAGE, row["category"]))


def _metrics(runs: DataFrame) -> list[str]:
    return [name for name in runs.columns if name not in _RUN]


def _merged(runs: DataFrame) -> dict[str, str]:
    return {name: reason for reasons in runs["undefined"] for name, reason in reasons.items()}


def _summaries(runs: DataFrame, baseline: str) -> Iterator[Summary]:
    metrics, gain = _statistics(runs), _statistics(gains(runs, baseline))
    for cell, seeds in runs.groupby(_CELL):
        num_failed = int(seeds["failed"].sum())
        row: Any = {**dict(zip(_CELL, cell, strict=True)), "n": len(seeds) - num_failed, "failed": num_failed}
        row |= {name: int(row[name]) for name in ("shots", "num_categories")}  # numpy's integers are not JSON's
        row |= {"metrics": metrics.get(cell, {}), "gain": gain.get(cell, {}), "undefined": _merged(seeds)}
        yield row | {"protocol": json.loads(row["protocol"])}


def _statistics(runs: DataFrame) -> dict[Any, dict[str, Statistic]]:
    """For every cell the statistic of each metric that has a value."""
    cells: dict[Any, dict[str, Statistic]] = {}
    for name in _metrics(runs):
        table = runs.groupby(_CELL)[name].agg(["mean", "std", "count"])
        for cell, mean, std, n in table[table["count"] > 0].itertuples(name=None):
            value = Statistic(mean=mean, std=std, n=int(n)) if n > 1 else Statistic(mean=mean, n=int(n))
            cells.setdefault(cell, {})[name] = value
    return cells


def print_table(results: Sequence[Result], baseline: str = BASELINE, metrics: Sequence[str] = METRICS) -> None:
    """Prints a table per protocol, dataset, shots and category, what the signs mean, and the runs that failed."""
    console = Console(highlight=False)
    rows = summarise(results, baseline)
    costs = {"false_alarm_rate"}.union(*({*result.timing, *result.resources} for result in results))
    protocols = list({json.dumps(row["protocol"]): row["protocol"] for row in rows if row["n"]}.values())
    differing = sorted({key for other in protocols for key in conflicting_keys(protocols[0], other)})
    for number, shown in enumerate(protocols, start=1):
        if differing:
            values = ", ".join(f"{key} = {_look_up(shown, key)}" for key in differing)
            console.print(Text(f"Protocol {number} of {len(protocols)}, not comparable: {values}\n", "bold red"))
        same = [row for row in rows if row["protocol"] == shown]
        methods = sorted({row["method"] for row in same}, key=lambda name: (name != baseline, name))
        for _, cell in groupby(same, key=itemgetter("dataset", "shots", "category")):
            table = _table({row["method"]: row for row in cell}, methods, metrics, costs)
            table.padding = (0, 1, 0, 0) if console.width >= 100 else 0
            console.print(table, "", sep="\n")
    for note in _notes(results, baseline, metrics):
        console.print(note)


def _look_up(nested: Any, dotted_key: str) -> Any:
    for key in dotted_key.split("."):
        nested = nested.get(key, "not set") if isinstance(nested, dict) else nested
    return nested


def _table(cell: dict[str, Summary], methods: Sequence[str], metrics: Sequence[str], costs: Collection[str]) -> Table:
    """A row per method, the best of every metric in bold, and below it the gain in every score."""
    some = next(iter(cell.values()))
    over = f" over the common categories ({some['num_categories']})" if some["category"] == AVERAGE else ""
    title = Text(f"{some['dataset']} · {some['category']}{over} · shots={some['shots']}", "bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("method", overflow="fold")
    best = {}
    for name in metrics:
        table.add_column(name, justify="right", overflow="fold")
        means = [row["metrics"][name]["mean"] for row in cell.values() if name in row["metrics"]]
        best[name] = (min if name in costs else max)(means) if len(means) > 1 else None
    for method in methods:
        row = cell.get(method)
        table.add_row(Text(method), *(_value(row, name, name in costs, best[name]) for name in metrics))
        gain = {name: value for name, value in row["gain"].items() if name not in costs} if row else {}
        if gain.keys() & set(metrics):
            shown = (f"{gain[name]['mean']:+.3f} ({gain[name]['n']})" if name in gain else "" for name in metrics)
            table.add_row("  gain", *shown, style="dim")
    return table


def _value(row: Summary | None, name: str, cost: bool, best: float | None) -> Text:
    """Mean, spread and number of seeds: three decimals, fewer for a large cost."""
    if row is None or name not in row["metrics"]:
        return Text("n/a" if row and name in row["undefined"] else "—")
    value = row["metrics"][name]
    decimals = 3 if not cost or value["mean"] < 1 else 1 if value["mean"] < 100 else 0
    spread = f" ± {value['std']:.{decimals}f}" if "std" in value else ""
    return Text(f"{value['mean']:.{decimals}f}{spread} ({value['n']})", "bold" if value["mean"] == best else "")


def _notes(results: Sequence[Result], baseline: str, metrics: Sequence[str]) -> Iterator[Text]:
    """What the signs in the tables mean, then the runs that failed."""
    if any(result.status == "ok" for result in results):
        legend = "mean ± sample std (number of seeds), best in bold; gain: mean difference to"
        yield Text(f"{legend} {baseline}, seed by seed", "dim")
    reasons = {(name, reason) for result in results for name, reason in result.undefined.items() if name in metrics}
    yield from (Text(f"n/a {name}: {reason}", "dim") for name, reason in sorted(reasons))
    if failed := [result for result in results if result.status == "failed"]:
        yield Text(f"\n{len(failed)} of {len(results)} runs failed:", "bold red")
    for result in failed:
        last_line = (result.error or "").strip().rpartition("\n")[2]
        yield Text(f"  {result.path_in(Path()).with_suffix('')}: {last_line}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        options = " ".join(option for option in self._option_string_actions if option.startswith("--"))
        self.exit(2, f"compare: {message}; options: {options}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("python -m anomaly_zoo.compare", description="Compares methods from the results store.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the store (default: results)")
    only = partial(parser.add_argument, nargs="+", default=[])
    only("--methods", metavar="M", help="only these, and the baseline (default: all)")
    only("--datasets", metavar="D", help="only these (default: all)")
    only("--shots", metavar="K", type=int, help="only these (default: all)")
    only("--metrics", metavar="NAME", help=f"columns (default: {' '.join(METRICS)}; all in json)")
    parser.add_argument("--baseline", metavar="M", default=BASELINE, help="what gains refer to (default: %(default)s)")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="json: full precision")
    return parser


def _chosen(options: argparse.Namespace) -> list[Result]:
    """The results that the options ask for; a ValueError if there are none, or an option names what the store lacks."""
    results = load_all(options.results)
    asked = {"method": options.methods, "dataset": options.datasets, "shots": options.shots}
    known = {name: {getattr(result, name) for result in results} for name in asked}
    known["metric"] = {name for run in results for part in (*_VALUES, "undefined") for name in getattr(run, part)}
    explicit = {options.baseline} - {BASELINE}  # the default need not be in the store
    for what, wanted in (*asked.items(), ("metric", options.metrics), ("method", explicit)):
        if results and (unknown := set(wanted) - known[what]):
            has = str(sorted(known[what]))[1:-1]
            raise ValueError(f"no {what} {unknown.pop()!r} in {options.results}, which has {has}")
    if options.methods:
        asked["method"] = {*options.methods, options.baseline}
    chosen = [run for run in results if all(getattr(run, name) in wanted for name, wanted in asked.items() if wanted)]
    if not chosen:
        what = "results for these options" if results else "results"
        raise ValueError(f"no {what} in {options.results}: fill it with `make bench METHOD={BASELINE} SHOTS=8`")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 if there is nothing to compare or a file is damaged."""
    options = _parser().parse_args(arguments)
    try:
        results = _chosen(options)
    except (OSError, ValueError) as error:
        Console(stderr=True, highlight=False).print(Text(f"compare: {error}"), soft_wrap=True)
        return 2
    if options.format == "table":
        print_table(results, options.baseline, options.metrics or METRICS)
    else:
        rows: list[Any] = [*summarise(results, options.baseline)]
        for row, part in product(rows, ("metrics", "gain")):
            row[part] = {name: row[part][name] for name in options.metrics or row[part] if name in row[part]}
        Console(highlight=False).out(json.dumps(rows, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
