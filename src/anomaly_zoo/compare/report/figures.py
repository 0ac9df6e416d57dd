"""The figures as Plotly's JSON, legible to colour-blind readers and in print. The page colours text and axes."""

from collections.abc import Sequence
from itertools import cycle
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.colors import hex_to_rgb

from anomaly_zoo.compare.answers import Compared
from anomaly_zoo.compare.significance import Level, RankTable
from anomaly_zoo.compare.verdicts import difference

# Okabe and Ito's colours that are legible on white and on black
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C00", "#8A63D2")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")
_GREY = "#888888"
_MARGIN = {"l": 56, "r": 12, "t": 28, "b": 48}


class Look(NamedTuple):
    """How a method is drawn, the same in all figures."""

    colour: str
    line: dict[str, Any]
    marker: dict[str, Any]


class Figure:
    """A figure as JSON that can stand inside a script element, and its caption."""

    def __init__(self, figure: go.Figure, caption: str) -> None:
        self.caption, self.json = caption, Markup(figure.to_json().replace("</", "<\\/"))  # noqa: S704


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for every method; figures name the methods in this order."""
    found = {}
    for method, colour, dash, symbol in zip(methods, cycle(COLOURS), cycle(_DASHES), cycle(_MARKERS), strict=False):
        line = {"color": colour, "dash": dash, "width": 2}
        found[method] = Look(colour, line, {"color": colour, "symbol": symbol, "size": 9})
    return found


def against_shots(levels: Sequence[Level], looks: dict[str, Look]) -> go.Figure:
    """Image AUROC against shots with a band from the lower to the upper end of its 95 % interval."""
    traces = []
    for method, look in looks.items():
        rows = sorted((level for level in levels if level.method == method), key=attrgetter("shots"))
        shots, low, mean, high = ([getattr(row, name) for row in rows] for name in ("shots", "low", "mean", "high"))
        plain: dict[str, Any] = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "mode": "lines"}
        fill = f"rgba{(*hex_to_rgb(look.colour), 0.15)}"
        xs, ys = shots + shots[::-1], high + low[::-1]
        band = go.Scatter(x=xs, y=ys, fill="toself", fillcolor=fill, legendgroup=method, **plain)
        drawn: dict[str, Any] = {"mode": "lines+markers", "line": look.line, "marker": look.marker}
        line = go.Scatter(x=shots, y=mean, name=method, legendgroup=method, **drawn)
        traces += [band, line] if rows else []
    ticks = sorted({level.shots for level in levels})
    axis = {"type": "log", "tickvals": ticks, "ticktext": [str(value) for value in ticks]}
    return _plot(traces, "shots", "image AUROC", axis)


def at_shots(levels: Sequence[Level], looks: dict[str, Look]) -> go.Figure:
    """Image AUROC of every method with its 95 % interval, for a single number of shots."""
    rows = {level.method: (level.low, level.mean, level.high) for level in levels}
    return _bars({method: rows[method] for method in looks if method in rows}, "image AUROC", looks)


def against_cost(points: dict[str, tuple[float, float]], name: str, looks: dict[str, Look]) -> go.Figure:
    """Image AUROC against a cost: (cost, score); a line joins those that nothing cheaper and better beats."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    line = {"color": _GREY, "width": 1, "dash": "dot", "shape": "hv"}
    xs, ys = ([corner[axis] for corner in front] for axis in (0, 1))
    traces = [go.Scatter(x=xs, y=ys, mode="lines", name="Pareto front", line=line, hoverinfo="skip")]
    for method in (method for method in looks if method in points):
        (cost, score), marker = points[method], looks[method].marker | {"size": 12}
        traces.append(go.Scatter(x=[cost], y=[score], name=method, mode="markers", marker=marker))
    costs = [cost for cost, _ in points.values()]
    differ = bool(costs) and max(costs) >= 3 * min(costs)
    return _plot(traces, name, "image AUROC", {"type": "log", "dtick": "D2"} if differ else {})


def mean_ranks(table: RankTable, looks: dict[str, Look]) -> go.Figure:
    """Mean ranks, the best first, with bars that overlap where the methods do not differ (Nemenyi)."""
    half, ranks = table["critical_difference"] / 2, sorted(table["mean_ranks"].items(), key=itemgetter(1))
    return _bars({method: (rank - half, rank, rank + half) for method, rank in ranks}, "mean rank", looks)


def claim(pair: Compared, borders: Sequence[float]) -> go.Figure:
    """The difference of two rows in every category, with the 95 % interval over its seeds, and their mean."""
    found = {name: difference([np.array([seed]) for seed in seeds]) for name, seeds in pair.per_seed.items()}
    found |= {"mean": pair.difference} if pair.difference else {}
    rows = {name: (row.interval[0], row.mean, row.interval[1]) for name, row in found.items()}
    return _bars(rows, f"{pair.row} - {pair.other}", {}, borders)


def _bars(
    rows: dict[str, tuple[float, float, float]], x: str, looks: dict[str, Look], borders: Sequence[float] = ()
) -> go.Figure:
    """A line for every row, from its low to its high end where these are finite, with a marker at its mean."""
    marker = {"size": 9, "color": [looks[name].colour if name in looks else COLOURS[name == "mean"] for name in rows]}
    ends = [(mean - low, high - mean) if high < np.inf else (0, 0) for low, mean, high in rows.values()]
    bars = {"type": "data", "array": [up for _, up in ends], "arrayminus": [down for down, _ in ends], "color": _GREY}
    means, drawn = [mean for _, mean, _ in rows.values()], {"width": 1, "color": _GREY, "dash": "dot"}
    points = go.Scatter(x=means, y=[*rows], error_x=bars, mode="markers", marker=marker, showlegend=False)
    lines = [go.Scatter(x=[at] * len(rows), y=[*rows], mode="lines", line=drawn, showlegend=False) for at in borders]
    return _plot([points, *lines], x, None, {}, {"autorange": "reversed", "automargin": True})


def _plot(
    traces: list[go.Scatter], x: str | None, y: str | None, x_axis: dict[str, Any], y_axis: dict[str, Any] | None = None
) -> go.Figure:
    axes: dict[str, Any] = {"xaxis": {**x_axis, "title": x}, "yaxis": {**(y_axis or {}), "title": y}}
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}  # above, where it meets no title
    clear: dict[str, Any] = dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), "rgba(0,0,0,0)")
    layout = go.Layout(template="none", margin=_MARGIN, legend=legend, hovermode="closest", **clear, **axes)
    return go.Figure(traces, layout)
