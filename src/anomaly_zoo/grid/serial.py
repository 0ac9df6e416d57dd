"""The engine without processes: one cell after the other, here. Its timings are disturbed by nothing of ours."""

from collections import deque

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.engine import Outcome
from anomaly_zoo.grid.worker import execute


class Serial:
    """Runs a submitted cell when its outcome is waited for."""

    slots = 1

    def __init__(self) -> None:
        self._cells: deque[Cell] = deque()

    def submit(self, cell: Cell) -> None:
        """Notes the cell."""
        self._cells.append(cell)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Runs the cell to its end, however long that takes."""
        del timeout_s
        return [Outcome(cell, execute(cell)) for cell in [self._cells.popleft()]]

    def close(self) -> None:
        """Nothing is left running."""
