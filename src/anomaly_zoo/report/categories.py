"""The drill-down of the report: per category its methods, defects, curves and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from anomaly_zoo.report import curves, figures, gallery
from anomaly_zoo.report.figures import Look
from anomaly_zoo.results import Result
from anomaly_zoo.summary import Summary

_MAX_TILES = 1100  # about 5 KB each
_MAX_ROWS = 24


@dataclass(frozen=True)
class Figure:
    """A figure, its caption and its JSON."""

    caption: str
    json: Markup


@dataclass(frozen=True)
class Category:
    """One category in the drill-down."""

    name: str
    rows: list[Summary]
    defects: list[tuple[str, list[str]]]
    figures: list[Figure]
    gallery: list[gallery.Row]
    has_masks: bool


def categories(
    at_shots: Sequence[Result], rows: Sequence[Summary], store: Path, look: Look, methods: Sequence[str], shots: int
) -> list[Category]:
    """Every category of these runs, all of which have the same number of shots."""
    names = sorted({(run.dataset, run.category) for run in at_shots})
    num_rows = max(4, min(_MAX_ROWS, _MAX_TILES // (len(names) * (len(methods) + 2))))
    found = []
    for dataset, category in names:
        here = [run for run in at_shots if (run.dataset, run.category) == (dataset, category)]
        first = {run.method: run for run in sorted(here, key=lambda run: -run.seed)}  # the lowest seed stays
        pictures = gallery.rows(store, {method: first[method] for method in methods if method in first}, num_rows)
        cell = (dataset, category, shots)
        same = [row for row in rows if (row["dataset"], row["category"], row["shots"]) == cell]
        found.append(
            Category(
                name=f"{dataset} · {category}",
                rows=sorted(same, key=lambda row: methods.index(row["method"])),
                defects=_defects(here, methods),
                figures=_curves(here, methods, look),
                gallery=pictures,
                has_masks=any(row.truth for row in pictures),
            )
        )
    return found


def _defects(here: Sequence[Result], methods: Sequence[str]) -> list[tuple[str, list[str]]]:
    """For every defect the image AUROC of every method, averaged over seeds."""
    rows = []
    for defect in sorted({defect for run in here for defect in run.per_defect}):
        cells = []
        for method in methods:
            values = [
                run.per_defect[defect]["image_auroc"]
                for run in here
                if run.method == method and "image_auroc" in run.per_defect.get(defect, {})
            ]
            cells.append(f"{np.mean(values):.3f}" if values else "—")
        rows.append((defect, cells))
    return rows


def _curves(here: Sequence[Result], methods: Sequence[str], look: Look) -> list[Figure]:
    roc: dict[str, curves.Curve] = {}
    precision: dict[str, curves.Curve] = {}
    for method in methods:
        scored = []
        for run in here:
            label = np.array([image["label"] for image in run.images], dtype=bool)
            if run.method == method and label.any() and not label.all():
                scored.append((np.array([image["score"] for image in run.images], dtype=np.float64), label))
        if scored:
            roc[method] = curves.mean([curves.roc(score, label) for score, label in scored])
            precision[method] = curves.mean([curves.precision(score, label) for score, label in scored])
    if not roc:
        return []
    return [
        as_figure(figures.receiver(roc, look), "ROC of image scores, mean over seeds."),
        as_figure(
            figures.receiver(precision, look, precision=True),
            "Precision against recall of image scores, mean over seeds.",
        ),
    ]


def as_figure(figure: go.Figure, caption: str) -> Figure:
    """The figure as JSON that can stand inside a script element."""
    return Figure(caption, Markup(figure.to_json().replace("</", "<\\/")))  # noqa: S704
