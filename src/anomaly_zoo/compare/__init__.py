"""Compares methods from the results store: read, one table of runs, statistics, tables, writers. Needs no torch."""

from collections.abc import Sequence

from anomaly_zoo.measures import BASELINE, SHOWN
from anomaly_zoo.results import Result


def print_table(results: Sequence[Result], baseline: str = BASELINE, metrics: Sequence[str] = SHOWN) -> None:
    """Prints a table per protocol, dataset, shots and category, what the signs mean, and the runs that failed."""
    from anomaly_zoo.compare import runs, summary, tables, writers  # here, since pandas takes long to import

    table = runs.frame(results, baseline)
    shown = tables.scores(summary.summarise(table, baseline), baseline, metrics)
    writers.terminal(shown, tables.legend(table, baseline, metrics))
