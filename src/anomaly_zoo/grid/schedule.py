"""The loop that hands cells to an engine until each has a result.

When several benches work on one store, a lock in every cell's folder says who runs it; it ends with its process.
"""

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, Timeout

from anomaly_zoo.grid.cells import Cell, conflicts, version_of
from anomaly_zoo.grid.engine import Engine, Outcome
from anomaly_zoo.results import Result, load

_WAIT_S = 0.5


class Ended(NamedTuple):
    """A cell and its result; the seconds that it ran are None if another bench made it."""

    cell: Cell
    result: Result
    seconds: float | None


def unfinished(cells: Sequence[Cell], force: bool = False) -> tuple[list[Cell], dict[Path, Result]]:
    """Splits cells into those to run, which with `force` are all of them, and the results of the others."""
    todo, finished = [], {}
    for cell in cells:
        result = load(cell.path) if cell.path.exists() and not force else None
        if result is None or result.status == "failed":
            todo.append(cell)
        else:
            _refuse_other_settings(cell, result)
            finished[cell.path] = result
    return todo, finished


class Schedule:
    """Yields every cell as it ends on an engine; one whose process or machine died is tried again, `retries` times."""

    def __init__(self, cells: Sequence[Cell], engine: Engine, retries: int = 1) -> None:
        self.left = {cell.path: cell for cell in cells}  # those without a result
        self.began: dict[Path, float] = {}  # those that run now, by the clock `time.monotonic`
        self.elsewhere: list[Cell] = []  # those that other benches run
        self.engine = engine
        self._retries = retries
        self._queue = deque(cells)
        self._before = {cell.path: version_of(cell.path) for cell in cells}
        self._locks: dict[Path, BaseFileLock] = {}
        self._deaths: Counter[Path] = Counter()

    def __iter__(self) -> Generator[Ended, None, None]:
        """Runs everything; an OSError if results cannot be saved, a ValueError if another bench has other settings."""
        try:
            while self.left:
                yield from self._start()
                if self.began:
                    for outcome in self.engine.wait(_WAIT_S):
                        yield from self._end(outcome)
                elif self.elsewhere:
                    time.sleep(_WAIT_S)
                if not self.began:
                    self._queue += self.elsewhere
                    self.elsewhere = []
        finally:
            self.engine.close()
            for lock in self._locks.values():
                lock.release()

    def _start(self) -> Iterator[Ended]:
        """Starts cells while there is room for them; yields those that another bench has run meanwhile."""
        slots = self.engine.slots if self._queue else 0
        while self._queue and len(self.began) < slots:
            cell = self._queue.popleft()
            lock = lock_of(cell)
            if lock is None:
                self.elsewhere.append(cell)
                continue
            self._locks[cell.path] = lock
            if version_of(cell.path) == self._before[cell.path]:
                self.began[cell.path] = time.monotonic()
                self.engine.submit(cell)
            else:
                result = load(cell.path)
                _refuse_other_settings(cell, result)
                yield self._take(cell, result, None)

    def _end(self, outcome: Outcome) -> Iterator[Ended]:
        """Yields a cell with its result, unless its process died and it is tried again."""
        cell, result, died = outcome
        seconds = time.monotonic() - self.began.pop(cell.path)
        self._deaths[cell.path] += result is None
        tries = self._deaths[cell.path]
        if result is None and tries > self._retries:
            from anomaly_zoo.grid.worker import fail  # imports torch

            result = fail(cell, f"ProcessDied: {died} (try {tries})")
        if result is None:
            self._locks.pop(cell.path).release()
            self._queue.append(cell)
        else:
            yield self._take(cell, result, seconds)

    def _take(self, cell: Cell, result: Result, seconds: float | None) -> Ended:
        self._locks.pop(cell.path).release()
        del self.left[cell.path]
        return Ended(cell, result, seconds)


def lock_of(cell: Cell) -> BaseFileLock | None:
    """Takes the lock of a cell; None if another bench has it, an OSError if the file system has no locks."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cell.folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        what = f"{cell.store} cannot be locked ({error}): choose --results on another file system"
        raise OSError(getattr(error, "errno", None), what) from error
    return lock


def _refuse_other_settings(cell: Cell, result: Result) -> None:
    if keys := conflicts(result, cell):
        what = f"{cell.path} was made with other settings ({', '.join(keys)})"
        raise ValueError(f"{what}. Keep both with another --results folder, or replace it with --force.")
