"""Runs one cell, in whatever process an engine chose. An error becomes a failed result; only a full disk is raised."""

import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from anomaly_zoo.config import build
from anomaly_zoo.grid.cells import Cell, Config, identity
from anomaly_zoo.grid.engine import DISK_FULL
from anomaly_zoo.results import Result, save
from anomaly_zoo.run import describe, run

_warm: set[int] = set()


def execute(cell: Cell) -> Result:
    """Runs a cell, and returns its result, which is saved; an OSError if the disk is full."""
    try:
        if identity(cell.method, cell.config) != cell.identity:
            root = Path(cell.config["data"]["root"]).resolve()
            raise ValueError(f"{root}, or the weights, are not what the bench saw when it started: start it again")
        if os.getpid() not in _warm:
            warm_up(cell.config)
        return run(cell.config, cell.method, cell.store, cell.identity)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        trace = traceback.format_exc().rstrip()
        brief = f"{type(error).__name__}: {error}".splitlines()[0]
        return fail(cell, trace if trace.endswith(brief) else f"{trace}\n{brief}")


def fail(cell: Cell, error: str) -> Result:
    """Saves and logs that a cell could not be run; the last line of `error` is the reason."""
    result = replace(describe(cell.config, cell.method), status="failed", error=error, cell=cell.identity)
    save(result, cell.store)
    cell.folder.mkdir(parents=True, exist_ok=True)
    with cell.log_path.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    return result


def warm_up(config: Config) -> None:
    """Shows one batch to the backbone, once per process: the first run's clock must not measure imports and the GPU."""
    cli = build(config)
    image = next(iter(cli.datamodule.train_dataloader())).image
    device = cli.trainer.strategy.root_device
    with torch.no_grad():
        cli.model.backbone.to(device)(image.to(device))
    _warm.add(os.getpid())
    del cli, image
    gc.collect()
    gc.freeze()  # the collection before every run need not look at what is imported by now, which takes 0.3 s


def use_threads(count: int) -> None:
    """Gives torch and OpenCV this many threads in this process."""
    import cv2

    torch.set_num_threads(count)
    cv2.setNumThreads(0 if count == 1 else count)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends what this process says meanwhile into a file, C libraries included; removes it if it stays empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    kept = [os.dup(number) for number in (1, 2)]
    with path.open("a") as file:  # `fail` appends to it, too
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        if not path.stat().st_size:
            path.unlink()
