"""How long cells take, and what a bench shows meanwhile: a table on a terminal, plain lines elsewhere. No torch."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import median

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.schedule import Ended, Schedule
from anomaly_zoo.measures import MAIN_SCORES
from anomaly_zoo.results import Result

Key = tuple[str | int, ...]


class Estimate:
    """Seconds per cell: median over past runs of the same method, dataset, category, shots, or the first of these."""

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self._seconds: dict[Key, list[float]] = defaultdict(list)
        for result in results:
            self.learn(result, result.timing.get("adapt_s", 0.0) + result.timing.get("test_s", 0.0))

    def learn(self, result: Result, seconds: float) -> None:
        """Takes in one more run."""
        if result.status == "ok" and seconds > 0:
            for key in _keys(result.method, result.dataset, result.category, result.shots):
                self._seconds[key].append(seconds)

    def of(self, cell: Cell) -> float | None:
        """Seconds of one cell; None if nothing like it has been run."""
        data = cell.config["data"]
        keys = _keys(cell.method, data["dataset"], data["category"], data["shots"])
        return next((median(self._seconds[key]) for key in keys if key in self._seconds), None)

    def total(self, cells: Sequence[Cell], at_once: int = 1) -> float | None:
        """Seconds of all, `at_once` at a time; None if one of them cannot be estimated."""
        each = [self.of(cell) for cell in cells]
        known = [seconds for seconds in each if seconds is not None]
        return max(sum(known) / at_once, max(known)) if known and len(known) == len(each) else None


def duration(seconds: float | None) -> str:
    """A duration as people say it.

    >>> duration(7.2), duration(150.0), duration(9000.0), duration(None)
    ('8 s', '2 min', '2.5 h', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{int(seconds) + 1} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _keys(*parts: str | int) -> list[Key]:
    return [parts[:length] for length in range(len(parts), 0, -1)]


def run_and_show(schedule: Schedule, console: Console, estimate: Estimate) -> dict[Path, Result]:
    """Runs everything, shows what is done, running and failed, and what is left; returns results by their files."""
    progress = _Progress(schedule, estimate)
    live = Live(get_renderable=progress.table, console=console, refresh_per_second=2, transient=True)
    results: dict[Path, Result] = {}
    with live if console.is_terminal else nullcontext(), closing(iter(schedule)) as cells:
        for ended in cells:
            results[ended.cell.path] = ended.result
            line = progress.learn(ended)
            if ended.result.status == "failed" or not console.is_terminal:
                console.print(line)
    return results


class _Progress:
    def __init__(self, schedule: Schedule, estimate: Estimate) -> None:
        self._schedule = schedule
        self._estimate = estimate
        self._total = len(schedule.left)
        self._at_once = schedule.engine.slots
        self._failed = 0

    def learn(self, ended: Ended) -> str:
        cell, result, seconds = ended
        if seconds is not None:
            self._estimate.learn(result, seconds)
        where = " (by another bench)" if seconds is None else ""
        if result.status == "failed":
            self._failed += 1
            reason = (result.error or "").splitlines()[-1]
            said = f"[red]failed:[/] {escape(cell.name)}: {escape(reason)}{where}"
            return f"{said}\n  log: {escape(str(cell.log_path))}"
        scores = ", ".join(f"{key} {result.metrics[key]:.3f}" for key in MAIN_SCORES if key in result.metrics)
        left = self._time_left() if self._schedule.left else None
        count = f"{self._done()}/{self._total}" + ("" if left is None else f", {duration(left)} left")
        return escape(f"{cell.name}: {scores}{where} [{count}]")

    def table(self) -> Group:
        table = Table.grid(padding=(0, 2))  # what is running, above a line with counts
        now, running, elsewhere = time.monotonic(), list(self._schedule.began.items()), len(self._schedule.elsewhere)
        for path, began in running:
            if path in self._schedule.left:
                table.add_row(Text(self._schedule.left[path].name), Text(f"{now - began:.0f} s", "dim"))
        said = f"{self._done()} of {self._total} done, {len(running)} running"
        said += f", {self._failed} failed" if self._failed else ""
        said += f", {elsewhere} run by another bench" if elsewhere else ""
        return Group(table, Text(f"{said}, time left: {duration(self._time_left())}", "bold"))

    def _done(self) -> int:
        return self._total - len(self._schedule.left)

    def _time_left(self) -> float | None:
        total = self._estimate.total(list(self._schedule.left.values()), self._at_once)
        spent = sum(time.monotonic() - began for began in list(self._schedule.began.values())) / self._at_once
        return None if total is None else max(0.0, total - spent)
