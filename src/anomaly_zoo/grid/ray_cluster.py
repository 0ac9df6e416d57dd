"""The engine for many machines: a Ray task per cell, on a cluster that is there or on one of this machine alone.

Nodes need this package in the same version, and data and weights at the driver's paths; what a run writes travels back.
"""

import logging
import os
import platform
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomaly_zoo.files import write_whole
from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.engine import Outcome
from anomaly_zoo.results import Result, save

_ANSWER_S = 5.0


class RayCluster:
    """Runs as many cells as there is room for; the address None starts a cluster. A run reserves `threads` cores."""

    def __init__(self, address: str | None, threads: int, gpu_share: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise ImportError("--engine ray needs Ray: pip install 'anomaly_zoo[ray]'") from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _require_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        self._per_run = {"CPU": float(threads)} | ({"GPU": gpu_share} if gpu_share else {})
        how: Any = {"num_cpus": threads, "num_gpus": gpu_share, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._task: Any = ray.remote(_run).options(**how)
        self._threads = threads
        self._running: dict[Any, Cell] = {}

    @property
    def slots(self) -> int:
        """Cells that fit into the nodes that are alive now; at least 1, since a lost node may come back."""
        nodes: list[Any] = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        each = [min(int(node.get(key, 0) / amount) for key, amount in self._per_run.items()) for node in nodes]
        return max(1, sum(each))

    def submit(self, cell: Cell) -> None:
        """Starts a task."""
        self._running[self._task.remote(cell, self._threads, str(Path.cwd()))] = cell

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The cells that ended, well or with their node."""
        done, _ = self._ray.wait(list(self._running), timeout=timeout_s)
        return [self._end(reference) for reference in done]

    def close(self) -> None:
        """Cancels what still runs, and leaves the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()

    def _end(self, reference: Any) -> Outcome:
        cell = self._running.pop(reference)
        try:
            result, files = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            brief = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
            return Outcome(cell, None, f"its process or its node is gone ({type(error).__name__}: {brief})")
        for name, content in files.items():
            write_whole(cell.folder / name, content)
        save(result, cell.store)
        return Outcome(cell, result)


def _run(cell: Cell, threads: int, folder: str) -> tuple[Result, dict[str, bytes]]:
    """The task: runs the cell in a folder of its own; returns its result, and what else it wrote by relative path."""
    from anomaly_zoo.grid.worker import execute, fail, logged, use_threads

    use_threads(threads)
    with tempfile.TemporaryDirectory(prefix="anomaly_zoo_") as scratch:
        here = replace(cell, store=Path(scratch))
        with logged(here.log_path):
            try:
                os.chdir(folder)  # paths of data and weights may be relative
            except OSError as error:
                what = f"{folder} is missing on {platform.node()} ({error})"
                result = fail(here, f"{what}: start the bench on a shared disk")
            else:
                result = execute(here)
        files = [path for path in here.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return result, {path.relative_to(here.folder).as_posix(): path.read_bytes() for path in files}


def _require_answer(address: str | None) -> None:
    """Fails at once where nobody listens; Ray itself would try for minutes, and not hear Ctrl-C meanwhile."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            hint = "`ray start` prints its address"
            raise ConnectionError(f"no Ray cluster answers at {address} ({error}): {hint}") from error
