"""The figures as Plotly's JSON. Colours tell methods apart for colour-blind readers; markers and dashes do so in print.

Text and axes have no colour here: the page sets them, light or dark.
"""

from collections.abc import Sequence
from itertools import cycle, pairwise
from math import floor, log10
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
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
GRID = np.linspace(0, 1, 101)


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
    traces = []
    for method, level in ((method, level) for method in looks for level in levels if level.method == method):
        ends: dict[str, Any] = {"array": [level.high - level.mean], "arrayminus": [level.mean - level.low]}
        drawn: dict[str, Any] = {"mode": "markers", "marker": looks[method].marker, "showlegend": False}
        ends |= {"color": looks[method].colour}
        traces.append(go.Scatter(x=[method], y=[level.mean], error_y=ends, name=method, **drawn))
    return _plot(traces, None, "image AUROC", {"range": [-0.6, len(levels) - 0.4], "automargin": True})


def against_cost(points: dict[str, tuple[float, float]], name: str, looks: dict[str, Look]) -> go.Figure:
    """Image AUROC against a cost: (cost, score); a line joins those that nothing cheaper and better beats."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    steps = [corner for (cost, score), (after, _) in pairwise(front) for corner in ((cost, score), (after, score))]
    corners = [*steps, *front[-1:]]
    line = {"color": _GREY, "width": 1, "dash": "dot"}
    xs, ys = ([corner[axis] for corner in corners] for axis in (0, 1))
    traces = [go.Scatter(x=xs, y=ys, mode="lines", name="Pareto front", line=line, hoverinfo="skip")]
    for method in (method for method in looks if method in points):
        (cost, score), marker = points[method], looks[method].marker | {"size": 12}
        traces.append(go.Scatter(x=[cost], y=[score], name=method, mode="markers", marker=marker))
    return _plot(traces, name, "image AUROC", _cost_axis([cost for cost, _ in points.values()]))


def _cost_axis(costs: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where the costs differ much, else a plain one."""
    if not costs or max(costs) < 3 * min(costs):
        return {}
    powers = range(floor(log10(min(costs))), floor(log10(max(costs))) + 2)
    digits = (1, 2, 5) if max(costs) < 50 * min(costs) else (1,)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks], "tickangle": 0}


def curves(over_grid: dict[str, Float[np.ndarray, " grid"]], x: str, y: str, looks: dict[str, Look]) -> go.Figure:
    """Curves over `GRID`: ROC, or precision against recall."""
    traces = [
        go.Scatter(x=GRID, y=curve.round(4), name=method, mode="lines", line=looks[method].line)
        for method, curve in over_grid.items()
    ]
    return _plot(traces, x, y, {"range": [-0.02, 1.02]}, {"range": [-0.02, 1.02]})


def roc(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " grid"]:
    """The true-positive rate at every false-positive rate of `GRID`; straight where scores are tied.

    Where the rate jumps, the upper end counts.

    >>> roc(np.array([0.1, 0.9, 0.4]), np.array([False, True, True]))[[0, 50, 100]].tolist()
    [1.0, 1.0, 1.0]
    """
    true, false = _counts(score, label)
    # Of equal false-positive rates, which rounding must not tell apart, the last is the one that counts here
    rates = np.append(0, false / false[-1]).round(12)
    return np.asarray(np.interp(GRID.round(12), rates, np.append(0, true / true[-1])))


def precision(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " grid"]:
    """The precision at the highest threshold that reaches every recall of `GRID`.

    >>> precision(np.array([0.1, 0.9, 0.4]), np.array([True, True, False]))[[0, 50, 100]].round(3).tolist()
    [1.0, 1.0, 0.667]
    """
    true, false = _counts(score, label)
    return np.asarray((true / (true + false))[np.searchsorted(true / true[-1], GRID - 1e-12)])


def _counts(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at every distinct score, highest first."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    return np.cumsum(label[order])[ends], np.cumsum(~label[order])[ends]


def critical_difference(table: RankTable, looks: dict[str, Look]) -> go.Figure:
    """Mean ranks on one axis, the best on the right; a bar joins methods within the critical difference."""
    ranks = sorted(table["mean_ranks"].items(), key=itemgetter(1))
    width, distance, notes = len(ranks), table["critical_difference"], []
    traces = [
        _line([ranks[first][1] - 0.04, ranks[last][1] + 0.04], [-0.3 - 0.2 * place] * 2, {"width": 6, "color": _GREY})
        for place, (first, last) in enumerate(cliques([rank for _, rank in ranks], distance))
    ]
    depth, height, margin = 0.5 + 0.2 * width, 0.9, 0.9 * (width - 1)  # the names stand in the margins
    for place, (method, rank) in enumerate(ranks):
        best_half = place < (width + 1) // 2
        down = -depth - height * (place if best_half else width - 1 - place)
        side, anchor = (0.9, "left") if best_half else (width + 0.1, "right")
        line, marker = {"color": looks[method].colour, "width": 2}, looks[method].marker | {"size": [10, 1, 1]}
        traces.append(_line([rank, rank, side], [0.0, down, down], line, marker=marker))
        text = {"text": f"{method}<br>{rank:.2f}", "xanchor": anchor, "align": anchor, "xshift": 2}
        notes.append({"x": side, "y": down, "showarrow": False, **text})
    ends = [1.0, 1 + distance]
    marker = {"symbol": "line-ns-open", "size": 10, "color": _GREY}
    traces.append(_line(ends, [0.5, 0.5], {"width": 2, "color": _GREY}, marker=marker))
    text = {"text": f"critical difference {distance:.2f}", "yanchor": "bottom", "yshift": 4}
    notes.append({"x": sum(ends) / 2, "y": 0.5, "showarrow": False, **text})
    limits = {"range": [max(width, ends[1]) + margin, 1 - margin], "tickvals": list(range(1, width + 1))}
    x_axis = {**limits, "side": "top", "showgrid": False, "zeroline": False}
    y_axis = {"visible": False, "range": [-depth - height * ((width + 1) // 2) + 0.2, 1.2]}
    figure = _plot(traces, "mean rank", None, x_axis, y_axis)
    return figure.update_layout(annotations=notes, margin={"l": 12, "t": 64, "b": 12})


def cliques(ranks: Sequence[float], distance: float) -> list[tuple[int, int]]:
    """First and last of every largest group of sorted ranks that lie within `distance`; groups of one are left out.

    >>> cliques([1.0, 1.5, 2.2, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other - rank <= distance)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def claim(pair: Compared, borders: Sequence[float]) -> go.Figure:
    """The difference of two rows in every category, with the 95 % interval over its seeds, and their mean."""
    of_seeds = {name: difference([np.array([seed]) for seed in seeds]) for name, seeds in pair.per_seed.items()}
    rows = {**of_seeds, **({"mean": pair.difference} if pair.difference else {})}
    half = [(row.interval[1] - row.mean if row.categories > 1 else 0.0) for row in rows.values()]
    marker = {"size": 9, "color": [COLOURS[0]] * len(of_seeds) + [COLOURS[4]]}
    bars = {"type": "data", "array": half, "color": _GREY}
    means = [row.mean for row in rows.values()]
    points = go.Scatter(x=means, y=[*rows], error_x=bars, mode="markers", marker=marker, showlegend=False)
    drawn = {"width": 1, "color": _GREY, "dash": "dot"}
    lines = [go.Scatter(x=[x] * len(rows), y=[*rows], mode="lines", line=drawn, showlegend=False) for x in borders]
    return _plot(
        [points, *lines], f"{pair.row} - {pair.other}", None, {}, {"autorange": "reversed", "automargin": True}
    )


def _line(xs: Sequence[float], ys: Sequence[float], line: dict[str, Any], **marker: Any) -> go.Scatter:
    mode = "lines+markers" if marker else "lines"
    return go.Scatter(x=xs, y=ys, mode=mode, line=line, hoverinfo="skip", showlegend=False, **marker)


def _plot(
    traces: list[go.Scatter], x: str | None, y: str | None, x_axis: dict[str, Any], y_axis: dict[str, Any] | None = None
) -> go.Figure:
    return go.Figure(
        traces,
        go.Layout(
            xaxis={**x_axis, "title": x},
            yaxis={**(y_axis or {}), "title": y},
            template="none",
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            margin=_MARGIN,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},  # above, where it meets no title
            hovermode="closest",
        ),
    )
