"""What a bench shows while it runs: a table that lives on a terminal, plain lines elsewhere. Needs no torch."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.estimate import Estimate, spelled
from anomaly_zoo.measures import MAIN_SCORES
from anomaly_zoo.results import Result


class Progress:
    """Counts what is done, running and failed, and says what is left. Use it in a `with` block.

    Args:
        cells: all that will be run.
        console: where to.
        estimate: learns from the cells as they end.
        at_once: how many run at a time.
    """

    def __init__(self, cells: Sequence[Cell], console: Console, estimate: Estimate, at_once: int) -> None:
        self._left = {cell.path: cell for cell in cells}
        self._total = len(cells)
        self._console = console
        self._estimate = estimate
        self._at_once = at_once
        self._began: dict[Path, float] = {}
        self._failed = 0
        self._elsewhere = 0
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def started(self, cell: Cell) -> None:
        """A cell began to run."""
        self._began[cell.path] = time.monotonic()

    def ended(self, cell: Cell, result: Result, here: bool) -> None:
        """A cell has a result."""
        began = self._began.pop(cell.path, None)
        self._left.pop(cell.path)
        if began is not None:
            self._estimate.learn(result, time.monotonic() - began)
        self._failed += result.status == "failed"
        where = "" if here else " (by another bench)"
        if result.status == "failed":
            reason = (result.error or "").splitlines()[-1]
            self._console.print(f"[red]failed:[/] {escape(cell.name)}: {escape(reason)}{where}")
        elif not self._console.is_terminal:
            scores = ", ".join(f"{key} {result.metrics[key]:.3f}" for key in MAIN_SCORES if key in result.metrics)
            self._console.print(f"{cell.name}: {scores}{where} [{self._count()}]", markup=False)

    def waiting(self, elsewhere: int) -> None:
        """Some time passed."""
        self._elsewhere = elsewhere

    def _count(self) -> str:
        done = self._total - len(self._left)
        left = spelled(self._time_left()) if self._left else ""
        return f"{done}/{self._total}" + (f", {left} left" if left not in ("", "unknown") else "")

    def _time_left(self) -> float | None:
        total = self._estimate.total(list(self._left.values()), self._at_once)
        spent = sum(time.monotonic() - began for began in self._began.values()) / self._at_once
        return None if total is None else max(0.0, total - spent)

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for path, began in list(self._began.items()):
            table.add_row(Text(self._left[path].name), Text(f"{now - began:.0f} s", "dim"))
        said = f"{self._total - len(self._left)} of {self._total} done, {len(self._began)} running"
        said += f", {self._failed} failed" if self._failed else ""
        said += f", {self._elsewhere} run by another bench" if self._elsewhere else ""
        return Group(table, Text(f"{said}, time left: {spelled(self._time_left())}", "bold"))
