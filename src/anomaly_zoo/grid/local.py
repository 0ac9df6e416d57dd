"""The engine for every core of one machine: a pool of processes.

Each worker runs one cell after the other and sends the results back through a pipe. A worker that is killed takes its
cell with it, and nothing else: a new one is started in its place. When the driver is gone, its workers end at once.

On Linux, workers are forked from a server that has imported all they need and run nothing, so that one starts in no
time; elsewhere each imports for itself.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.engine import Outcome

_IS_LINUX = sys.platform == "linux"
_PROCESSES: Any = multiprocessing.get_context("forkserver" if _IS_LINUX else "spawn")  # a used torch survives no fork
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE_S = 5


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[Cell, object]"
    cell: Cell | None = None


class LocalPool:
    """Runs up to `workers` cells at once.

    Args:
        workers: processes.
        threads: of each process.
        gpus: graphics processors that the workers share out; 0 to leave the choice to them.
    """

    def __init__(self, workers: int, threads: int, gpus: int = 0) -> None:
        self.slots = workers
        self._threads = threads
        self._gpus = gpus
        self._workers: dict[int, _Worker] = {}

    def submit(self, cell: Cell) -> None:
        """Hands the cell to a worker that has nothing to do."""
        idle = (number for number, worker in self._workers.items() if worker.cell is None)
        number = next(idle, None)
        if number is None:
            number = next(number for number in range(self.slots) if number not in self._workers)
            self._workers[number] = self._start(number)
        worker = self._workers[number]
        worker.cell = cell
        with suppress(BrokenPipeError):  # it died while idle; `wait` finds that out
            worker.pipe.send(cell)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """The cells that ended, well or with their worker."""
        busy = {worker.pipe: number for number, worker in self._workers.items() if worker.cell is not None}
        return [self._end(busy[pipe]) for pipe in wait(list(busy), timeout_s)]  # type: ignore[index]

    def close(self) -> None:
        """Kills what still runs."""
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            worker.process.join(_GRACE_S)
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _start(self, number: int) -> _Worker:
        start_importing()
        variables = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(self._threads))
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = str(number % self._gpus)
        ours, theirs = _PROCESSES.Pipe()
        process = _PROCESSES.Process(
            target=_work, args=(theirs, self._threads, variables), name=f"bench worker {number}"
        )
        with _environment(variables):  # a spawned torch reads them when it is imported
            process.start()
        theirs.close()  # the only other end is the worker's, so that its death ends the pipe
        return _Worker(process, ours)

    def _end(self, number: int) -> Outcome:
        worker = self._workers[number]
        cell, worker.cell = worker.cell, None
        assert cell is not None
        try:
            return Outcome(cell, worker.pipe.recv())  # type: ignore[arg-type]
        except (EOFError, OSError):
            worker.process.join()
            worker.pipe.close()
            del self._workers[number]
            return Outcome(cell, None, _last_words(worker.process.exitcode or 0))


def _last_words(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    hint = ", which the system does when memory runs out: try fewer --workers" if exit_code == -signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-exit_code).name}{hint}"


def start_importing() -> None:
    """Starts what workers are forked from, if it is not there. Call it early: it imports while others go on."""
    if _IS_LINUX:
        _PROCESSES.set_forkserver_preload(["anomaly_zoo.grid.worker"])
        with _environment(dict.fromkeys(_THREAD_VARIABLES, "1")), _deaf_to_ctrl_c():  # no threads: a fork loses them
            forkserver.ensure_running()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process that starts meanwhile ignores Ctrl-C, which reaches all processes; the driver decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A process that starts meanwhile has these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _work(pipe: "Connection[object, Cell]", threads: int, variables: Mapping[str, str]) -> None:
    """A worker: runs cells until the pipe ends."""
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where it was spawned
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from anomaly_zoo.grid.worker import execute, failed, logged, use_threads

    use_threads(threads)
    with suppress(EOFError, BrokenPipeError):
        while True:
            cell = pipe.recv()
            try:
                with logged(cell.log_path):
                    faulthandler.enable()
                    result = execute(cell)
            except OSError as error:  # the log cannot be written
                result = failed(cell, f"{type(error).__name__}: {error}")
            pipe.send(result)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
