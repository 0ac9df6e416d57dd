"""Compares methods from the results store: `python -m anomaly_zoo.compare [RESULTS]`. Needs neither torch nor a GPU.

`runs.frame` (a row per run) -> `summary` (a row per method and group) -> `significance` (how sure) -> `tables` ->
`writers`, or a report. Runs of different protocols never share a table.
"""

import argparse
import gc
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_zoo.files import write_whole
from anomaly_zoo.grid.options import Parser
from anomaly_zoo.measures import BASELINE, SHOWN
from anomaly_zoo.results import load_all
from anomaly_zoo.yaml_files import expand, name_in_results

if TYPE_CHECKING:
    from pandas import DataFrame
else:  # pandas takes longer to import than the help may take to print, and annotations are evaluated
    DataFrame = Any

_BYS = ("category", "dataset", "defect", "shots")
_SUFFIXES = {".md": "md", ".tex": "latex", ".csv": "csv", ".json": "json"}
_MANY_CELLS = 16
_MEASURED = ("metrics", "timing", "resources", "undefined")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 if there is nothing to compare or a file is damaged."""
    options = _parse(arguments)
    try:
        options.methods = expand(options.methods)
        if options.run:
            _run_missing(options)
        runs = _chosen(options)
        if options.report:
            from anomaly_zoo.compare.report import page

            page.write(runs, options.report, options.results, options.baseline)
            sys.stderr.write(f"Report: {options.report} ({options.report.stat().st_size / 1e6:.1f} MB)\n")
        if options.output is not None:
            write_whole(options.output, _shown(runs, options).encode())
            sys.stderr.write(f"Written: {options.output}\n")
        elif not options.report:
            sys.stdout.write(_shown(runs, options))
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"compare: {error}\n")
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("python -m anomaly_zoo.compare", description="Compares methods from the results store.")
    add = parser.add_argument
    only = partial(add, nargs="+", default=[])
    add("results", type=Path, nargs="?", default=Path("results"), help="the store (default: results)")
    only("--methods", metavar="M", help="only these, and the baseline; coft:all: its variants (default: all)")
    only("--datasets", metavar="D", help="only these (default: all)")
    only("--shots", metavar="K", type=int, help="only these (default: all)")
    only("--protocol", metavar="KEY=VALUE", help="only runs with this, such as data.image_size=256 (default: all)")
    only("--metrics", metavar="NAME", help=f"columns (default: {' '.join(SHOWN)}; all in csv and json)")
    add("--baseline", metavar="M", default=BASELINE, help="what gains refer to (default: %(default)s)")
    add("--by", choices=_BYS, help="what a table is for (default: category; dataset if those are many)")
    formats = ["table", *_SUFFIXES.values()]
    add("--format", choices=formats, help="csv, json: full precision (default: that of --output, or table)")
    add("--output", type=Path, metavar="FILE", help="write there instead (.md .tex .csv .json)")
    add("--report", type=Path, metavar="FILE", help="write one HTML file with figures and pictures")
    add("--run", action="store_true", help="first run what is missing in the grid, through bench")
    options = parser.parse(arguments)
    options.format = options.format or _SUFFIXES.get(options.output.suffix if options.output else "", "table")
    if options.output and options.format == "table":
        parser.error(f"what format is {options.output}? End it in {' '.join(_SUFFIXES)}, or pass --format")
    return options


def _run_missing(options: argparse.Namespace) -> None:
    """Fills the grid; failed runs are results. Exits if it could not be filled, which the bench has said."""
    from anomaly_zoo import bench  # the one door from compare to whatever runs methods
    from anomaly_zoo.compare.missing_runs import commands

    results = load_all(options.results)
    methods = options.methods or list(dict.fromkeys(run.method for run in results))
    if options.baseline not in map(name_in_results, methods):
        methods = [*methods, options.baseline]
    code = bench.fill([*commands(results, options.results, methods, options.datasets, options.shots)])
    if code not in (0, 1):
        raise SystemExit(code)


def _chosen(options: argparse.Namespace) -> DataFrame:
    """The runs that the options ask for; a ValueError if there are none, or an option names what the store lacks."""
    from anomaly_zoo.compare.runs import frame, with_protocol

    results = load_all(options.results)
    gc.freeze()  # they stay until the end: the garbage collector need not search them again and again
    asked = {"method": [*map(name_in_results, options.methods)], "dataset": options.datasets, "shots": options.shots}
    known = {name: {getattr(result, name) for result in results} for name in asked}
    known["metric"] = {name for run in results for part in _MEASURED for name in getattr(run, part)}
    explicit = {options.baseline} - {BASELINE}  # the default need not be in the store
    for what, wanted in (*asked.items(), ("metric", options.metrics), ("method", explicit)):
        if results and (unknown := set(wanted) - known[what]):
            has = str(sorted(known[what]))[1:-1]
            raise ValueError(f"no {what} {unknown.pop()!r} in {options.results}, which has {has}")
    if asked["method"]:
        asked["method"] = [*asked["method"], options.baseline]
    chosen = [run for run in results if all(getattr(run, name) in wanted for name, wanted in asked.items() if wanted)]
    if not chosen:
        what = "results for these options" if results else "results"
        method, shots = (options.methods or [options.baseline])[0], (options.shots or [8])[0]
        where = "" if str(options.results) == "results" else f" RESULTS={shlex.quote(str(options.results))}"
        make = f"`make bench METHOD={method} SHOTS={shots}{where}`"
        raise ValueError(f"no {what} in {options.results}: fill it with {make}, or pass --run to do that first")
    return with_protocol(frame(chosen, options.baseline), options.protocol, options.baseline)


def _shown(runs: DataFrame, options: argparse.Namespace) -> str:
    """The numbers; or scores and costs, how sure they are, and what others have published, as tables."""
    from anomaly_zoo.compare import tables, writers
    from anomaly_zoo.compare.significance import add_tests, rankings
    from anomaly_zoo.compare.summary import summarise

    baseline, metrics, numbers = options.baseline, options.metrics or SHOWN, options.format in ("csv", "json")
    many = len(runs.groupby(["dataset", "category", "shots"])) > _MANY_CELLS and not numbers
    by: Any = options.by or ("dataset" if many else "category")
    rows = add_tests(summarise(runs, baseline, by), runs, baseline)
    if numbers:
        return (writers.as_csv if options.format == "csv" else writers.as_json)(rows, options.metrics)
    shown = [
        *tables.scores(rows, baseline, metrics),
        *tables.evidence(rows, baseline),
        *tables.ranks(rankings(runs, baseline), baseline),
        *tables.published(runs["dataset"]),
    ]
    if options.format == "table":
        said = "averages only, since there are many categories: --by category shows all"
        hint = [tables.Entry(said, faint=True)] if many and not options.by else []
        writers.terminal(shown, [*tables.legend(runs, baseline, metrics), *hint])
        return ""
    return (writers.markdown if options.format == "md" else writers.latex)(shown)


if __name__ == "__main__":
    sys.exit(main())
