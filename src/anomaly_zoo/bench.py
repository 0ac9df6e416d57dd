"""`python -m anomaly_zoo.bench`: the grid method x dataset x category x shots x seed, on a laptop or on a cluster."""

import argparse
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from anomaly_zoo.compare import print_table
from anomaly_zoo.grid.cells import Cell, grid, remember
from anomaly_zoo.grid.engine import DEFAULT_RUN_MIB, DISK_FULL, Engine, Serial, gpus, share
from anomaly_zoo.grid.local import LocalPool, start_importing
from anomaly_zoo.grid.options import parse
from anomaly_zoo.grid.progress import Estimate, duration, run_and_show
from anomaly_zoo.grid.schedule import Schedule, unfinished
from anomaly_zoo.measures import BASELINE
from anomaly_zoo.results import Result, load, load_all

_RESUME = "The same command goes on where this one ended: finished runs are kept.\n"
_TERMINATED = 128 + signal.SIGTERM  # which a batch system sends before it takes the machine away


def main(arguments: list[str] | None = None) -> int:
    """Runs the grid; returns 0, 1 if a run failed or the disk is full, 2 if it cannot, 130 or 143 if it was ended."""
    return _to_the_end([parse(arguments)])


def fill(commands: Sequence[list[str]]) -> int:
    """Runs the grids of several commands as one, on the first's engine, as `main` does; prints no tables, to stderr."""
    grids = [parse(command) for command in commands]
    if not grids:
        return 0
    with redirect_stdout(sys.stdout if grids[0].dry_run else sys.stderr):
        return _to_the_end(grids, tables=False)


def _to_the_end(grids: Sequence[argparse.Namespace], tables: bool = True) -> int:
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main_thread else None
    try:
        return _bench(grids, Console(highlight=False, soft_wrap=True), tables)
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
        terminated = isinstance(error, SystemExit) and error.code == _TERMINATED
        sys.stderr.write(f"{'Terminated' if terminated else 'Interrupted'}. {_RESUME}")
        return _TERMINATED if terminated else 128 + signal.SIGINT
    except OSError as error:
        full = error.errno in DISK_FULL
        sys.stderr.write(f"error: the disk is full: {error}\n{_RESUME}" if full else f"error: {error}\n")
        return 1 if full else 2
    except (ValueError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(_TERMINATED)


def _bench(grids: Sequence[argparse.Namespace], console: Console, tables: bool) -> int:
    options = grids[0]
    roots = [_choose_datasets(grid.dataset, grid.root, console) for grid in grids]
    if options.engine == "local" and not (options.list_cells or options.dry_run or options.results.exists()):
        start_importing()  # nothing is finished: workers will be needed
    cells = [cell for each, where in zip(grids, roots, strict=True) for cell in _cells(each, where)]
    if options.list_cells:
        for number, cell in enumerate(cells):
            console.print(f"{number} {_place(cell)}", markup=False)
        return 0
    if options.cell is not None:
        if not 0 <= options.cell < len(cells):
            raise ValueError(f"--cell {options.cell} is not there: --list-cells shows 0 to {len(cells) - 1}.")
        cells = [cells[options.cell]]
    todo, results = unfinished(cells, options.force)
    past = [result for store in {cell.store for cell in cells if todo} for result in load_all(store)]
    if todo and not tables:
        missing = Counter(cell.method for cell in todo)
        console.print("Missing:", ", ".join(f"{method} ({count})" for method, count in missing.items()), markup=False)
    if options.dry_run:
        return _dry_run(cells, todo, past, options, console)
    if todo:
        from anomaly_zoo.grid.preflight import check  # imports torch

        check(todo, console)
        remember(cells)
    if len(todo) < len(cells):
        console.print(f"{len(cells) - len(todo)} of {len(cells)} runs are finished already (--force runs them again).")
    if todo:
        schedule = Schedule(todo, _engine(cells, past, options), options.retries)
        results |= run_and_show(schedule, console, Estimate(past))
    for store in dict.fromkeys(cell.store for cell in cells if tables):
        here = [cell for cell in cells if cell.store == store]
        beside = {replace(cell, method=BASELINE).path for cell in here} - {cell.path for cell in here}
        print_table([results[cell.path] for cell in here] + [load(path) for path in sorted(beside) if path.is_file()])
    failed = sum(result.status == "failed" for result in results.values())
    if failed:
        console.print(f"\n[bold red]{failed} of {len(results)} runs failed.[/] The same command runs them again.")
    return 1 if failed else 0


def _choose_datasets(names: Sequence[str] | None, roots: Sequence[Path] | None, console: Console) -> dict[str, Path]:
    if names and roots and len(names) != len(roots):
        raise ValueError(f"--dataset has {len(names)} names, --root {len(roots)} folders: give one for each.")
    both = list(zip_longest(names or [], roots or [])) or [(None, None)]
    chosen = [_choose_dataset(name, root, console) for name, root in both]
    if len(dict(chosen)) < len(chosen):
        raise ValueError(f"two datasets are named {chosen[0][0]!r}: tell them apart with --dataset.")
    return dict(chosen)


def _choose_dataset(name: str | None, root: Path | None, console: Console) -> tuple[str, Path]:
    """The dataset's name and folder; ELPV, which a Python package brings, where there is nothing else."""
    if root is not None:
        return name or root.resolve().name, root
    mvtec = Path(os.environ.get("MVTEC_ROOT") or "datasets/mvtec_ad")
    if name is None:
        name = "mvtec_ad" if os.environ.get("MVTEC_ROOT") or mvtec.is_dir() else "elpv"
        hint = "--root FOLDER in the MVTec layout (make: ROOT=), or set MVTEC_ROOT"
        console.print(f"Dataset {name}. For another: {hint}.")
    root = mvtec if name == "mvtec_ad" else Path("datasets") / name
    if name == "elpv":
        from anomaly_zoo.data.prepare import elpv

        if not root.exists():
            console.print(f"ELPV: {elpv.ELPV.licence} {elpv.ELPV.citation}", style="dim", markup=False)
        elpv.prepare(root)
    return name, root


def _cells(options: argparse.Namespace, roots: dict[str, Path]) -> list[Cell]:
    chosen = {"backbone.weights": options.weights, "data.image_size": options.image_size}
    fixed = [f"--{key}={value}" for key, value in chosen.items() if value is not None]
    backbones = list(dict.fromkeys(options.backbone or [None]))
    cells: list[Cell] = []
    for backbone in backbones:
        store = options.results if len(backbones) == 1 else options.results / f"backbone={backbone}"
        more = fixed if backbone is None else [f"--backbone.name={backbone}", *fixed]
        for method in options.method:
            cells += grid(method, roots, options.category, options.shots, options.seeds, more, store)
    return cells


def _dry_run(
    cells: Sequence[Cell], todo: Sequence[Cell], past: Sequence[Result], options: argparse.Namespace, console: Console
) -> int:
    """Prints what would run, and for how long judging by past runs."""
    estimate = Estimate(past)
    for cell in todo:
        again = " (again)" if cell.path.exists() else ""
        console.print(f"{_place(cell)}{again}: {duration(estimate.of(cell))}", markup=False)
    at_once = min(len(todo), _shares(cells, past, options)[0]) if todo and options.engine == "local" else 1
    total = estimate.total(todo, at_once) if todo else 0.0
    done = f"{len(cells) - len(todo)} of {len(cells)} runs are finished"
    console.print(f"{done}; the other {len(todo)} should take {duration(total)}, {at_once} at a time.")
    return 0


def _engine(cells: Sequence[Cell], past: Sequence[Result], options: argparse.Namespace) -> Engine:
    if options.engine == "serial":
        return Serial()
    if options.engine == "ray":
        from anomaly_zoo.grid.ray_cluster import RayCluster

        return RayCluster(options.address, options.threads or 1, options.gpus or 0.0)
    return LocalPool(*_shares(cells, past, options), gpus=gpus())


def _shares(cells: Sequence[Cell], past: Sequence[Result], options: argparse.Namespace) -> tuple[int, int]:
    """Runs at once and threads of each, for the local pool; as the whole grid says, finished or not.

    For the last bits of a score depend on the number of threads, and a resumed grid has those of one never stopped.
    """
    names = {cell.method for cell in cells}
    mib = max((float(run.resources.get("peak_rss_mib", 0)) for run in past if run.method in names), default=0)
    return share(len(cells), mib or DEFAULT_RUN_MIB, options.workers, options.threads, gpus(), options.gpus or 1.0)


def _place(cell: Cell) -> str:
    return cell.path.relative_to(cell.store).with_suffix("").as_posix() + f" {cell.config['backbone']['name']}"


if __name__ == "__main__":
    sys.exit(main())
