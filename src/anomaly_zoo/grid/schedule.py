"""The loop that hands cells to an engine and saves what comes back. Only this process writes results.

So a result is written once, by whoever holds the claim on its cell; a worker that outlives its driver cannot write one.
"""

import errno
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from anomaly_zoo.grid.cells import Cell, conflicts
from anomaly_zoo.grid.claims import Claims
from anomaly_zoo.grid.engine import Engine, Outcome
from anomaly_zoo.results import Result, load, save

_WAIT_S = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Todo(NamedTuple):
    """A cell to run, and the version of its result file when that was decided: None if there was none."""

    cell: Cell
    seen: tuple[int, int] | None


@runtime_checkable
class Watcher(Protocol):
    """Hears how it goes."""

    def started(self, cell: Cell) -> None:
        """A cell began to run."""

    def ended(self, cell: Cell, result: Result, here: bool) -> None:
        """A cell has a result; `here` is False if another bench made it."""

    def waiting(self, elsewhere: int) -> None:
        """Some time passed; `elsewhere` cells are only waited for, since other benches run them."""


class DiskFullError(OSError):
    """Nothing can be saved any more."""


def unfinished(cells: Sequence[Cell], force: bool = False) -> tuple[list[Todo], dict[Path, Result]]:
    """Splits cells into those to run and the results of the others.

    Args:
        cells: what was asked for.
        force: run finished ones again.

    Raises:
        ValueError: the store holds a run of the same name with other settings, or a damaged file.
    """
    todo, finished = [], {}
    for cell in cells:
        seen = _stamp(cell.path)
        result = load(cell.path) if seen and not force else None
        if result is None or result.status == "failed":
            todo.append(Todo(cell, seen))
        else:
            _refuse_other_settings(cell, result)
            finished[cell.path] = result
    return todo, finished


class Schedule:
    """Runs cells on an engine until each has a result.

    Args:
        todo: what to run, from `unfinished`; none of them twice.
        engine: where.
        watcher: is told of everything.
        retries: how often a cell is started again whose process or machine died.
    """

    def __init__(self, todo: Sequence[Todo], engine: Engine, watcher: Watcher, retries: int = 1) -> None:
        self._queue = deque(todo)
        self._engine = engine
        self._watcher = watcher
        self._retries = retries
        self._claims = Claims()
        self._deaths: Counter[Path] = Counter()
        self._running: dict[Path, Todo] = {}
        self._elsewhere: list[Todo] = []
        self.results: dict[Path, Result] = {}

    def run(self) -> dict[Path, Result]:
        """Runs everything and returns the results by their file.

        Raises:
            DiskFullError: the disk is full; what was saved before is whole.
        """
        try:
            while self._queue or self._running or self._elsewhere:
                self._fill()
                if self._running:
                    for outcome in self._engine.wait(_WAIT_S):
                        self._take_back(outcome)
                elif self._elsewhere:
                    time.sleep(_WAIT_S)
                self._watcher.waiting(len(self._elsewhere))
                if not self._running:
                    self._queue += self._elsewhere
                    self._elsewhere = []
        finally:
            self._engine.close()
            self._claims.close()
        return self.results

    def _fill(self) -> None:
        """Starts cells while there is room for them."""
        slots = self._engine.slots if self._queue else 0
        while self._queue and len(self._running) < slots:
            todo = self._queue.popleft()
            cell = todo.cell
            if not self._claims.take(cell):
                self._elsewhere.append(todo)
            elif _stamp(cell.path) != todo.seen:  # another bench was faster
                result = load(cell.path)
                _refuse_other_settings(cell, result)
                self._end(cell, result, here=False)
            else:
                self._running[cell.path] = todo
                self._watcher.started(cell)
                self._engine.submit(cell)

    def _take_back(self, outcome: Outcome) -> None:
        cell, result, died = outcome
        todo = self._running.pop(cell.path)
        if result is None:
            self._deaths[cell.path] += 1
            if self._deaths[cell.path] <= self._retries:
                self._claims.release(cell)
                self._queue.append(todo)
                return
            result = _failed(cell, f"ProcessDied: {died} (try {self._deaths[cell.path]})")
        self._end(cell, self._save(cell, result), here=True)

    def _end(self, cell: Cell, result: Result, here: bool) -> None:
        self._claims.release(cell)
        self.results[cell.path] = result
        self._watcher.ended(cell, result, here)

    def _save(self, cell: Cell, result: Result) -> Result:
        """Saves a result, or why it cannot be one. Returns what was saved."""
        try:
            save(result, cell.store)
            if result.status == "failed":
                _note(cell, result)
        except ValueError as error:  # scores that are not finite
            return self._save(cell, _failed(cell, f"{type(error).__name__}: {error}"))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise DiskFullError(
                error.errno, f"the disk with {cell.store} is full: {cell.name} could not be saved"
            ) from error
        return result


def _refuse_other_settings(cell: Cell, result: Result) -> None:
    if keys := conflicts(result, cell):
        raise ValueError(
            f"{cell.path} was made with other settings ({', '.join(keys)}). "
            "Keep both with another --results folder, or replace it with --force."
        )


def _failed(cell: Cell, error: str) -> Result:
    from anomaly_zoo.grid.worker import failed  # imports torch

    return failed(cell, error)


def _note(cell: Cell, result: Result) -> None:
    """Appends the traceback to the cell's log."""
    cell.log_path.parent.mkdir(parents=True, exist_ok=True)
    with cell.log_path.open("a", encoding="utf-8") as file:
        file.write(f"{result.error}\n")


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tells one version of a result file from another; None if there is none."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns
