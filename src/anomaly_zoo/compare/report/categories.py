"""The drill-down of the report: per category its methods, defects, curves and pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomaly_zoo.compare.report import figures, gallery
from anomaly_zoo.compare.report.figures import Figure, Look
from anomaly_zoo.compare.summary import Summary, summarise
from anomaly_zoo.compare.tables import MISSING
from anomaly_zoo.results import Result

_MAX_TILES = 1100  # about 5 KB each
_MAX_ROWS = 24


def categories(runs: pd.DataFrame, store: Path, looks: dict[str, Look]) -> list[dict[str, Any]]:
    """Every category of these runs, all of which succeeded and have the same number of shots."""
    by_category: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for row in [*summarise(runs), *summarise(runs, by="defect")]:
        by_category[row["dataset"], row["category"]].append(row)
    groups = runs.groupby(["dataset", "category"])
    num_rows = max(4, min(_MAX_ROWS, _MAX_TILES // (len(groups) * (len(looks) + 2))))
    found = []
    for key, here in groups:
        dataset, category = map(str, key)
        first = {
            run.method: run for run in here.sort_values("seed", ascending=False)["result"]
        }  # the lowest seed stays
        pictures = gallery.rows(store, {method: first[method] for method in looks if method in first}, num_rows)
        summaries = by_category[dataset, category]
        whole = sorted((row for row in summaries if not row["defect"]), key=lambda row: [*looks].index(row["method"]))
        found.append(
            {
                "name": f"{dataset} · {category}",
                "rows": whole,
                "defects": _defects(summaries, [*looks]),
                "figures": _curves(list(here["result"]), looks),
                "gallery": pictures,
                "has_masks": any(row.truth for row in pictures),
            }
        )
    return found


def _defects(rows: Sequence[Summary], methods: Sequence[str]) -> list[tuple[str, list[str]]]:
    """For every defect the image AUROC of every method, averaged over seeds."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["defect"] and (auroc := row["metrics"].get("image_auroc")):
            found[row["defect"]][row["method"]] = f"{auroc['mean']:.3f}"
    return [(defect, [aurocs.get(method, MISSING) for method in methods]) for defect, aurocs in found.items()]


def _curves(here: Sequence[Result], looks: dict[str, Look]) -> list[Figure]:
    """ROC, and precision against recall, both the mean over seeds."""
    scored: dict[str, list[Any]] = defaultdict(list)
    for run in here:
        label = np.array([image["label"] for image in run.images], dtype=bool)
        if label.any() and not label.all():
            scored[run.method].append((np.array([image["score"] for image in run.images], dtype=np.float64), label))
    found = []
    for curve, x, y, name in (
        (figures.roc, "false-positive rate", "true-positive rate", "ROC"),
        (figures.precision, "recall", "precision", "Precision against recall"),
    ):
        means = {
            method: np.mean([curve(*run) for run in scored[method]], axis=0) for method in looks if method in scored
        }
        found.append(Figure(figures.curves(means, x, y, looks), f"{name} of image scores, mean over seeds."))
    return found if scored else []
