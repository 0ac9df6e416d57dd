"""What a bench shows while it runs: a table that lives on a terminal, plain lines elsewhere. Needs no torch."""

import time
from contextlib import closing, nullcontext
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomaly_zoo.grid.estimate import Estimate, duration
from anomaly_zoo.grid.schedule import Ended, Schedule
from anomaly_zoo.results import Result

_SCORES = ("image_auroc", "aupro")


def run_and_show(schedule: Schedule, console: Console, estimate: Estimate) -> dict[Path, Result]:
    """Runs everything, shows what is done, running and failed, and what is left; returns results by their files."""
    progress = _Progress(schedule, estimate)
    live = Live(get_renderable=progress.table, console=console, refresh_per_second=2, transient=True)
    results: dict[Path, Result] = {}
    with live if console.is_terminal else nullcontext(), closing(iter(schedule)) as cells:  # type: ignore[type-var]
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
        """Takes in a cell, and says how it ended."""
        cell, result, seconds = ended
        if seconds is not None:
            self._estimate.learn(result, seconds)
        where = "" if seconds is not None else " (by another bench)"
        if result.status == "failed":
            self._failed += 1
            reason = (result.error or "").splitlines()[-1]
            return f"[red]failed:[/] {escape(cell.name)}: {escape(reason)}{where}"
        scores = ", ".join(f"{key} {result.metrics[key]:.3f}" for key in _SCORES if key in result.metrics)
        left = self._time_left() if self._schedule.left else None
        count = f"{self._done()}/{self._total}" + (f", {duration(left)} left" if left is not None else "")
        return escape(f"{cell.name}: {scores}{where} [{count}]")

    def table(self) -> Group:
        """What is running, and a line with counts."""
        table = Table.grid(padding=(0, 2))
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
