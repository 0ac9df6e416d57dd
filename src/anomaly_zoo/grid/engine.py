"""What the bench needs of an engine, the simplest one, and what a run may use of the machine. Imports torch late."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.results import Result

DEFAULT_RUN_MIB = 1500.0  # of a run before any has been measured: torch, a support's images, a small backbone
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Outcome(NamedTuple):
    """How a cell ended: with a result that is saved, of a failed run too, or because its process or machine `died`."""

    cell: Cell
    result: Result | None
    died: str = ""


@runtime_checkable
class Engine(Protocol):
    """Gets cells, and gives results."""

    @property
    def slots(self) -> int:
        """Cells that can run at once."""

    def submit(self, cell: Cell) -> None:
        """Starts a cell."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The cells that ended; waits at most this long for the first. An OSError if results cannot be saved."""

    def close(self) -> None:
        """Ends everything at once, cells that still run included."""


class Serial:
    """One cell after the other, in this process. Its timings are disturbed by nothing of ours."""

    slots = 1

    def submit(self, cell: Cell) -> None:
        """Notes the cell."""
        self._cell = cell

    def wait(self, timeout_s: float) -> list[Outcome]:  # noqa: ARG002
        """Runs the cell to its end, however long that takes."""
        from anomaly_zoo.grid.worker import execute

        return [Outcome(self._cell, execute(self._cell))]

    def close(self) -> None:
        """Nothing is left running."""


def cores() -> int:
    """Processor cores that this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def gpus() -> int:
    """Graphics processors of this machine that torch can use."""
    import torch

    return torch.cuda.device_count()


def available_mib() -> float:
    """Memory that is free for runs; infinite where the system does not say."""
    free = float("inf")
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line.split()[1] for line in lines if line.startswith("MemAvailable"))) / 2**10
    with suppress(OSError, ValueError):
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, (limit - used) / 2**20)
    return free


def share(
    cells: int, run_mib: float, workers: int | None, threads: int | None, gpus: int = 0, gpu_share: float = 1.0
) -> tuple[int, int]:
    """Runs at once and threads of each, unless decided already, so that no core is idle and none fought over.

    `cells` counts finished runs, too; a run takes the part `gpu_share` of a graphics processor, in (0, 1].
    """
    if workers is None:
        at_once = gpus * int(1 / gpu_share) if gpus else cores()
        workers = min(at_once, max(1, int(available_mib() / run_mib)))
        workers = max(1, min(workers, cores() // threads)) if threads else workers
    workers = min(workers, cells)
    return workers, threads or max(1, cores() // workers)
