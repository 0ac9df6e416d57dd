"""The engine for every core of one machine: a pool of processes.

Each worker runs one cell after the other and sends results back through a pipe. One that is killed takes its cell with
it, and nothing else (pools of libraries break as a whole); when the driver is gone, workers end at once. On Linux they
are forked from a server that has imported all they need, so that one starts in no time.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.engine import Outcome
from anomaly_zoo.results import Result

_IS_LINUX = sys.platform == "linux"
_PROCESSES: Any = multiprocessing.get_context("forkserver" if _IS_LINUX else "spawn")  # a used torch survives no fork
_GRACE_S = 5

Answer = Result | OSError  # the latter if the result cannot be saved


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[Cell, Answer]"
    cell: Cell | None = None


class LocalPool:
    """Runs up to `workers` cells at once, which share out the `gpus`; without any, that is left to them."""

    def __init__(self, workers: int, threads: int, gpus: int = 0) -> None:
        self.slots = workers
        self._threads = threads
        self._gpus = gpus
        self._workers: dict[int, _Worker] = {}

    def submit(self, cell: Cell) -> None:
        """Hands the cell to a worker that has nothing to do."""
        worker = next((worker for worker in self._workers.values() if worker.cell is None), None) or self._start()
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

    def _start(self) -> _Worker:
        start_importing()
        number = next(number for number in range(self.slots) if number not in self._workers)
        variables = os.environ | _threads(self._threads)
        variables |= {"CUDA_VISIBLE_DEVICES": str(number % self._gpus)} if self._gpus else {}
        ours, theirs = _PROCESSES.Pipe()
        arguments = (theirs, self._threads, variables)
        process = _PROCESSES.Process(target=_work, args=arguments, name=f"bench worker {number}")
        process.start()
        theirs.close()  # the only other end is the worker's, so that its death ends the pipe
        self._workers[number] = _Worker(process, ours)
        return self._workers[number]

    def _end(self, number: int) -> Outcome:
        worker = self._workers[number]
        cell, worker.cell = worker.cell, None
        assert cell is not None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            worker.pipe.close()
            del self._workers[number]
            return Outcome(cell, None, _last_words(worker.process.exitcode or 0))
        if isinstance(answer, OSError):
            raise answer
        return Outcome(cell, answer)


def start_importing() -> None:
    """Starts what workers are forked from, if it is not there. Call it early: it imports while others go on."""
    if _IS_LINUX:
        _PROCESSES.set_forkserver_preload(["anomaly_zoo.grid.worker"])
        resource_tracker.ensure_running()  # which would unblock the signal
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C reaches all; the driver decides
        variables = dict(os.environ)
        os.environ.update(_threads(1))  # a fork loses threads
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(variables)
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _threads(count: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))


def _last_words(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    hint = ", which the system does when memory runs out: try fewer --workers" if exit_code == -signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-exit_code).name}{hint}"


def _work(pipe: "Connection[Answer, Cell]", threads: int, variables: Mapping[str, str]) -> None:
    os.environ.update(variables)  # before torch is imported, unless it was forked with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also where it was spawned
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from anomaly_zoo.grid.worker import execute, logged, use_threads

    use_threads(threads)
    with suppress(EOFError, BrokenPipeError):
        while True:
            cell = pipe.recv()
            try:
                with logged(cell.log_path):
                    faulthandler.enable()
                    answer: Answer = execute(cell)
            except OSError as error:
                answer = error
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
