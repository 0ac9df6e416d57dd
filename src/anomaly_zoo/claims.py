"""`python -m anomaly_zoo.claims`: runs what configs/claims.yaml needs through the bench, and says which claims hold."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from anomaly_zoo.compare.missing_runs import commands
from anomaly_zoo.compare.paper_claims import Claim, read
from anomaly_zoo.grid.options import Parser, add_where
from anomaly_zoo.results import Result, load_all

_PASSED_ON = ("backbone", "weights", "image_size", "engine", "workers", "threads", "gpus", "address", "retries")
_LEGEND = (
    "interval: 95 %, Student's t over the means of n categories x seeds; verdicts are corrected over a paper's claims",
    "found from: true differences so far beyond the border are found in 80 % of repetitions, with the spread seen here",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, 1 if a run failed, 2 if the request cannot be met, or how the bench ended."""
    options, code = _parse(arguments), 0
    try:
        claims = read(only=options.claim)
        asked = {name: claim for name, claim in claims.items() if name in (options.claim or claims)}
        if not options.no_run:
            from anomaly_zoo import bench

            rows = dict.fromkeys(row for claim in asked.values() for row in claim.rows)
            code = bench.fill([*_grids(options, [*rows])])
            if options.dry_run or code not in (0, 1):
                return code
        _show(_chosen(options), claims, [*asked], options)
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"claims: {error}\n")
        return 2
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("python -m anomaly_zoo.claims", description="Says which claims of the papers hold.")
    add = parser.add_argument
    add("results", type=Path, nargs="?", default=Path("results"), help="store, or file of kept results (results)")
    add("--claim", nargs="+", default=[], metavar="ID", help="only these, such as pf-1 (all)")
    add("--root", type=Path, nargs="+", help="folders in the MVTec layout (the datasets of the store)")
    add("--shots", type=int, default=8, metavar="K", help="number of support images (8)")
    add("--seeds", type=int, nargs="+", default=[], help="(those of the store, or 0 1 2)")
    add("--backbone", help="a timm model name (that of the store)")
    add("--weights", help="auto, none, or a weight file (those of the store)")
    add("--image-size", type=int, metavar="PX", help="side of the square images (that of the store)")
    add("--protocol", nargs="+", default=[], metavar="KEY=VALUE", help="only runs with data.image_size=256, say (all)")
    add("--no-run", action="store_true", help="read finished runs only")
    add("--dry-run", action="store_true", help="print what would run and how long it should take")
    add(
        "--format",
        choices=["text", "json", "md", "latex", "csv"],
        default="text",
        help="json, csv: full precision (text)",
    )
    add_where(parser)
    return parser.parse(arguments)


def _grids(options: argparse.Namespace, rows: list[str]) -> Iterator[list[str]]:
    """What the rows lack, as arguments of the bench."""
    given = {f"--{name.replace('_', '-')}": getattr(options, name) for name in _PASSED_ON}
    more = [f"{name}={value}" for name, value in given.items() if value is not None]
    more += ["--root", *map(str, options.root)] if options.root else []
    known = [] if options.root else load_all(options.results)
    for command in commands(known, options.results, rows, shots=[options.shots], seeds=options.seeds):
        yield [*command, *more, *(["--dry-run"] if options.dry_run else [])]


def _chosen(options: argparse.Namespace) -> list[Result]:
    """The finished runs that count; a ValueError if there are none."""
    asked = {"shots": [options.shots], "seed": options.seeds}
    asked["dataset"] = [root.resolve().name for root in options.root or ()]
    every = load_all(options.results)
    found = [run for run in every if all(getattr(run, name) in some for name, some in asked.items() if some)]
    if not found:
        raise ValueError(f"no run at {options.shots} shots in {options.results} for these options: leave --no-run out.")
    return found


def _show(results: list[Result], claims: dict[str, Claim], asked: list[str], options: argparse.Namespace) -> None:
    from anomaly_zoo.compare import answers, writers  # here, since pandas takes long to import
    from anomaly_zoo.compare.runs import frame, with_protocol
    from anomaly_zoo.compare.tables import Entry

    found = answers.judge(with_protocol(frame(results), options.protocol), claims)
    shown = [answer for answer in found if answer.name in asked]
    if options.format == "text":
        writers.terminal(answers.tables(shown, options.shots), [Entry(line, faint=True) for line in _LEGEND])
    elif options.format == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown)).decode() + "\n")
    elif options.format == "csv":
        sys.stdout.write(writers.plain_csv(answers.as_rows(shown)))
    else:
        write = writers.markdown if options.format == "md" else writers.latex
        sys.stdout.write(write(answers.tables(shown, options.shots)))


if __name__ == "__main__":
    sys.exit(main())
