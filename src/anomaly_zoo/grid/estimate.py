"""How long cells take, from the timings of past runs. Needs no torch."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.results import Result

Key = tuple[str | int, ...]


class Estimate:
    """Seconds per cell: the median over the past runs that are most like it.

    Most alike are the same method, dataset, category and shots; then fewer of these in this order.

    Args:
        results: past runs; failed ones do not count.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self._seconds: dict[Key, list[float]] = defaultdict(list)
        for result in results:
            self.learn(result, result.timing.get("adapt_s", 0) + result.timing.get("test_s", 0))

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
