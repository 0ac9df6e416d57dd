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
    found: dict[str, list[Any]] = defaultdict(list)
    for run in here:
        label = np.array([image["label"] for image in run.images], dtype=bool)
        score = np.array([image["score"] for image in run.images], dtype=np.float64)
        if label.any() and not label.all():
            found[run.method].append((figures.roc(score, label), figures.precision(score, label)))
    if not found:
        return []
    means = {method: np.mean(found[method], axis=0) for method in looks if method in found}
    roc, precision = ({method: both[place] for method, both in means.items()} for place in (0, 1))
    return [
        Figure(
            figures.curves(roc, "false-positive rate", "true-positive rate", looks),
            "ROC of image scores, mean over seeds.",
        ),
        Figure(
            figures.curves(precision, "recall", "precision", looks),
            "Precision against recall of image scores, mean over seeds.",
        ),
    ]
