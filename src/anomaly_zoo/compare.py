"""Compares methods from the results store: `python -m anomaly_zoo.compare [RESULTS]`. Needs neither torch nor a GPU.

One straight line: `load_all` -> `summarise` (a row per method and cell), `comparisons` and `rankings` (how sure) ->
tables, numbers or a report. Runs whose protocol differs (backbone, data options, precision, or other support images
with the same seed) never share a table. `--format json` prints what `summarise` returns, see `Summary`.
"""

import argparse
import gc
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from anomaly_zoo import missing
from anomaly_zoo.results import Result, conflicting_keys, load_all, write_whole
from anomaly_zoo.summary import BASELINE, BYS, frame, protocols, summarise
from anomaly_zoo.tables import METRICS, NOT_SET, Mark, blocks, look_up, notes
from anomaly_zoo.yaml_files import expand, name_in_results

__all__ = ["main", "print_table"]

_SUFFIXES = {".md": "md", ".tex": "latex", ".csv": "csv", ".json": "json"}
_MANY_CELLS = 16
_PARTS = ("metrics", "timing", "resources", "undefined")


def print_table(results: Sequence[Result], baseline: str = BASELINE, metrics: Sequence[str] = METRICS) -> None:
    """Prints a table per protocol, dataset, shots and category, what the signs mean, and the runs that failed."""
    from anomaly_zoo import writers

    console = Console(highlight=False)
    writers.terminal(console, blocks(summarise(results, baseline), baseline, metrics))
    writers.lines(console, notes(results, baseline, metrics))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 if there is nothing to compare or a file is damaged."""
    options = _parse(arguments)
    try:
        options.methods = expand(options.methods)
        if options.run:
            missing.fill(options.results, options.methods, options.datasets, options.shots, options.baseline)
        results = _chosen(options)
        if options.report:
            from anomaly_zoo import report

            options.report = report.write(results, options.report, options.results, options.baseline)
            _say(f"Report: {options.report} ({options.report.stat().st_size / 1e6:.1f} MB)")
        if options.output is None and not options.report:
            _show(results, options)
        elif options.output is not None:
            write_whole(options.output, _text(results, options).encode())
            _say(f"Written: {options.output}")
    except (OSError, ValueError, ImportError) as error:
        _say(f"compare: {error}")
        return 2
    return 0


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        options = " ".join(option for option in self._option_string_actions if option.startswith("--"))
        self.exit(2, f"compare: {message}; options: {options}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("python -m anomaly_zoo.compare", description="Compares methods from the results store.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the store (default: results)")
    only = partial(parser.add_argument, nargs="+", default=[])
    only("--methods", metavar="M", help="only these, and the baseline; coft:all: its variants (default: all)")
    only("--datasets", metavar="D", help="only these (default: all)")
    only("--shots", metavar="K", type=int, help="only these (default: all)")
    only("--protocol", metavar="KEY=VALUE", help="only runs with this, such as data.image_size=256 (default: all)")
    only("--metrics", metavar="NAME", help=f"columns (default: {' '.join(METRICS)}; all in csv and json)")
    parser.add_argument("--baseline", metavar="M", default=BASELINE, help="what gains refer to (default: %(default)s)")
    parser.add_argument("--by", choices=BYS, help="what a table is for (default: category; dataset if those are many)")
    formats = ["table", *_SUFFIXES.values()]
    parser.add_argument(
        "--format", choices=formats, help="csv, json: full precision (default: that of --output, or table)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead (.md .tex .csv .json)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one HTML file with figures and pictures")
    parser.add_argument("--run", action="store_true", help="first run what is missing in the grid, through bench")
    options = parser.parse_args(arguments)
    options.format = options.format or _SUFFIXES.get(options.output.suffix if options.output else "", "table")
    if options.output and options.format == "table":
        parser.error(f"what format is {options.output}? End it in {' '.join(_SUFFIXES)}, or pass --format")
    return options


def _chosen(options: argparse.Namespace) -> list[Result]:
    """The results that the options ask for; a ValueError if there are none, or an option names what the store lacks."""
    results = load_all(options.results)
    asked = {"method": [*map(name_in_results, options.methods)], "dataset": options.datasets, "shots": options.shots}
    known = {name: {getattr(result, name) for result in results} for name in asked}
    known["metric"] = {name for run in results for part in _PARTS for name in getattr(run, part)}
    explicit = {options.baseline} - {BASELINE}  # the default need not be in the store
    for what, wanted in (*asked.items(), ("metric", options.metrics), ("method", explicit)):
        if results and (unknown := set(wanted) - known[what]):
            has = str(sorted(known[what]))[1:-1]
            raise ValueError(f"no {what} {unknown.pop()!r} in {options.results}, which has {has}")
    if asked["method"]:
        asked["method"] = [*asked["method"], options.baseline]
    chosen = [run for run in results if all(getattr(run, name) in wanted for name, wanted in asked.items() if wanted)]
    for condition in options.protocol:
        chosen = _with_protocol(chosen, condition, options)
    if not chosen:
        what = "results for these options" if results else "results"
        raise ValueError(f"no {what} in {options.results}: {_how_to_fill(options)}")
    return chosen


def _with_protocol(runs: Sequence[Result], condition: str, options: argparse.Namespace) -> list[Result]:
    """The runs whose protocol has what `KEY=VALUE` says."""
    every = protocols(runs, options.baseline)
    key, equals, value = condition.partition("=")
    found = [str(look_up(shown, key)) for shown in every]
    has = ", ".join(sorted(set(found)))
    if runs and (not equals or has == NOT_SET):
        keys = sorted({name for shown in every for name in conflicting_keys(shown, {part: {} for part in shown})})
        raise ValueError(f"--protocol {condition}: write KEY=VALUE, where KEY is one of {', '.join(keys)}")
    if runs and value not in found:
        raise ValueError(f"no run with {condition!r} in {options.results}, where {key} is: {has}")
    return [run for run, shown in zip(runs, found, strict=True) if shown == value]


def _how_to_fill(options: argparse.Namespace) -> str:
    method, shots = (options.methods or [options.baseline])[0], (options.shots or [8])[0]
    where = "" if str(options.results) == "results" else f" RESULTS={shlex.quote(str(options.results))}"
    return f"fill it with `make bench METHOD={method} SHOTS={shots}{where}`, or pass --run to do that first"


def _by(results: Sequence[Result], options: argparse.Namespace) -> Any:
    cells = {(result.dataset, result.category, result.shots) for result in results}
    return options.by or (
        "dataset" if len(cells) > _MANY_CELLS and options.format not in ("csv", "json") else "category"
    )


def _tables(results: Sequence[Result], options: argparse.Namespace) -> list[Any]:
    """What is shown: scores and costs, then how sure they are, then what others have published."""
    from anomaly_zoo import published
    from anomaly_zoo.significance import comparisons, rankings
    from anomaly_zoo.tables import evidence, order

    runs = frame(results, options.baseline)
    by, metrics = _by(results, options), options.metrics or METRICS
    tables = [*blocks(summarise(results, options.baseline, by, runs), options.baseline, metrics)]
    tables += evidence(comparisons(results, options.baseline, by), options.baseline)
    tables += order(rankings(results, options.baseline, runs=runs), options.baseline)
    if published.concerns({result.dataset for result in results}):
        tables.append(published.block())
    return tables


def _show(results: Sequence[Result], options: argparse.Namespace) -> None:
    console = Console(highlight=False)
    if options.format != "table":
        sys.stdout.write(_text(results, options))
        return
    from anomaly_zoo import writers

    writers.terminal(console, _tables(results, options))
    writers.lines(console, notes(results, options.baseline, options.metrics or METRICS))
    if not options.by and _by(results, options) == "dataset":
        writers.lines(
            console, [Mark("averages only, since there are many categories: --by category shows all", None, True)]
        )


def _text(results: Sequence[Result], options: argparse.Namespace) -> str:
    from anomaly_zoo import writers
    from anomaly_zoo.significance import comparisons

    if options.format in ("csv", "json"):
        by = _by(results, options)
        write = writers.as_csv if options.format == "csv" else writers.as_json
        rows = summarise(results, options.baseline, by)
        return write(rows, comparisons(results, options.baseline, by), options.metrics)
    return (writers.markdown if options.format == "md" else writers.latex)(_tables(results, options))


if __name__ == "__main__":
    gc.disable()  # the process ends before searching millions of objects for garbage would pay
    sys.exit(main())
