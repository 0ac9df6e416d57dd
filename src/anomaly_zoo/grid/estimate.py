"""How long cells take, from the timings of past runs. Needs no torch."""

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
        self._seconds: dict[Key, list[float]] = {}
        for result in results:
            self.learn(result)

    def learn(self, result: Result, seconds: float | None = None) -> None:
        """Takes in one more run, by its own clock or by another, in seconds."""
        taken = result.timing.get("adapt_s", 0) + result.timing.get("test_s", 0) if seconds is None else seconds
        if result.status == "ok" and taken > 0:
            for key in _keys(result.method, result.dataset, result.category, result.shots):
                self._seconds.setdefault(key, []).append(taken)

    def of(self, cell: Cell) -> float | None:
        """Seconds of one cell; None if nothing like it has been run."""
        data = cell.config["data"]
        for key in _keys(cell.method, data["dataset"], data["category"], data["shots"]):
            if key in self._seconds:
                return median(self._seconds[key])
        return None

    def total(self, cells: Sequence[Cell], at_once: int = 1) -> float | None:
        """Seconds of all, `at_once` at a time; None if one of them cannot be estimated."""
        each = [self.of(cell) for cell in cells]
        known = [seconds for seconds in each if seconds is not None]
        if len(known) < len(each) or not each:
            return None
        return max(sum(known) / at_once, max(known))


def run_mib(results: Iterable[Result], default: float) -> float:
    """Memory that one run of these has needed at most, in MiB."""
    return max((float(result.resources.get("peak_rss_mib", 0)) for result in results), default=0) or default


def spelled(seconds: float | None) -> str:
    """A duration as people say it.

    >>> spelled(7.2), spelled(150.0), spelled(9000.0), spelled(None)
    ('8 s', '2 min', '2.5 h', 'unknown')
    """
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{int(seconds) + 1} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _keys(method: str, dataset: str, category: str, shots: int) -> list[Key]:
    whole: Key = (method, dataset, category, shots)
    return [whole[:length] for length in range(len(whole), 0, -1)]
