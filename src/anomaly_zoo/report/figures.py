"""The figures as Plotly's JSON. Colours tell methods apart for colour-blind readers; markers and dashes do so in print.

Text and axes have no colour here: the page sets them, light or dark.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import floor, log10
from typing import Any

import plotly.graph_objects as go

from anomaly_zoo.report.curves import GRID, Curve
from anomaly_zoo.significance import Level, RankTable

# Okabe and Ito's colours that are legible on white and on black
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C00", "#8A63D2")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash")


class Look:
    """One colour, marker and dash for every method, the same in all figures."""

    def __init__(self, methods: Sequence[str]) -> None:
        self._place = {method: place for place, method in enumerate(methods)}

    def place(self, method: str) -> int:
        """Where the method stands among all: figures name them in this order."""
        return self._place[method]

    def colour(self, method: str) -> str:
        """As `#rrggbb`."""
        return COLOURS[self._place[method] % len(COLOURS)]

    def line(self, method: str) -> dict[str, Any]:
        """Colour, dash and width."""
        return {"color": self.colour(method), "dash": _DASHES[self._place[method] % len(_DASHES)], "width": 2}

    def marker(self, method: str) -> dict[str, Any]:
        """Colour and symbol."""
        return {"color": self.colour(method), "symbol": _MARKERS[self._place[method] % len(_MARKERS)], "size": 9}


def against_shots(levels: Sequence[Level], look: Look) -> go.Figure:
    """Image AUROC against shots with a band from the lower to the upper end of its 95 % interval."""
    figure = go.Figure()
    for method in sorted({level["method"] for level in levels}, key=look.place):
        rows = sorted((level for level in levels if level["method"] == method), key=lambda level: level["shots"])
        shots = [row["shots"] for row in rows]
        red, green, blue = (int(look.colour(method)[place : place + 2], 16) for place in (1, 3, 5))
        figure.add_scatter(
            x=[*shots, *reversed(shots)],
            y=[row["high"] for row in rows] + [row["low"] for row in reversed(rows)],
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.15)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            mode="lines",
            legendgroup=method,
        )
        figure.add_scatter(
            x=shots,
            y=[row["mean"] for row in rows],
            name=method,
            mode="lines+markers",
            line=look.line(method),
            marker=look.marker(method),
            legendgroup=method,
        )
    shots = sorted({level["shots"] for level in levels})
    figure.update_xaxes(type="log", tickvals=shots, ticktext=[str(value) for value in shots], title="shots")
    figure.update_yaxes(title="image AUROC")
    return _plain(figure)


def at_shots(levels: Sequence[Level], look: Look) -> go.Figure:
    """Image AUROC of every method with its 95 % interval, for a single number of shots."""
    figure = go.Figure()
    for level in sorted(levels, key=lambda level: look.place(level["method"])):
        figure.add_scatter(
            x=[level["method"]],
            y=[level["mean"]],
            error_y={
                "array": [level["high"] - level["mean"]],
                "arrayminus": [level["mean"] - level["low"]],
                "color": look.colour(level["method"]),
            },
            name=level["method"],
            mode="markers",
            marker=look.marker(level["method"]),
            showlegend=False,
        )
    figure.update_xaxes(range=[-0.6, len(levels) - 0.4], automargin=True)
    figure.update_yaxes(title="image AUROC")
    return _plain(figure)


def against_cost(points: Sequence[tuple[str, float, float]], name: str, look: Look) -> go.Figure:
    """Image AUROC against a cost: (method, cost, score); a line joins those that nothing cheaper and better beats."""
    figure = go.Figure()
    front: list[tuple[float, float]] = []
    for _, cost, score in sorted(points, key=lambda point: (point[1], -point[2])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    steps = [corner for (cost, score), (after, _) in pairwise(front) for corner in ((cost, score), (after, score))]
    corners = [*steps, front[-1]] if front else []
    figure.add_scatter(
        x=[cost for cost, _ in corners],
        y=[score for _, score in corners],
        mode="lines",
        name="Pareto front",
        line={"color": "#888888", "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
    for method, cost, score in sorted(points, key=lambda point: look.place(point[0])):
        figure.add_scatter(x=[cost], y=[score], name=method, mode="markers", marker=look.marker(method) | {"size": 12})
    figure.update_xaxes(title=name, **_cost_axis([cost for _, cost, _ in points]))
    figure.update_yaxes(title="image AUROC")
    return _plain(figure)


def _cost_axis(costs: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis where the costs differ much, else a plain one."""
    if not costs or max(costs) < 3 * min(costs):
        return {}
    powers = range(floor(log10(min(costs))), floor(log10(max(costs))) + 2)
    digits = (1, 2, 5) if max(costs) < 50 * min(costs) else (1,)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks], "tickangle": 0}


def receiver(curves: dict[str, Curve], look: Look, precision: bool = False) -> go.Figure:
    """ROC curves, or precision against recall."""
    figure = go.Figure()
    for method, curve in curves.items():
        figure.add_scatter(x=GRID, y=curve.round(4), name=method, mode="lines", line=look.line(method))
    figure.update_xaxes(title="recall" if precision else "false-positive rate", range=[-0.02, 1.02])
    figure.update_yaxes(title="precision" if precision else "true-positive rate", range=[-0.02, 1.02])
    return _plain(figure)


def critical_difference(table: RankTable, look: Look) -> go.Figure:
    """Mean ranks on one axis, the best on the right; a bar joins methods within the critical difference."""
    figure = go.Figure()
    ranks = sorted(table["mean_ranks"].items(), key=lambda item: item[1])
    width = len(ranks)
    for place, bar in enumerate(cliques([rank for _, rank in ranks], table["critical_difference"])):
        low, high = (ranks[end][1] for end in bar)
        _line(figure, [low - 0.04, high + 0.04], [-0.3 - 0.2 * place] * 2, {"width": 6, "color": "#888888"})
    depth, height, margin = 0.5 + 0.2 * width, 0.9, 0.9 * (width - 1)  # the names stand in the margins
    for place, (method, rank) in enumerate(ranks):
        best_half = place < (width + 1) // 2
        down = -depth - height * (place if best_half else width - 1 - place)
        side = 0.9 if best_half else width + 0.1
        line = {"color": look.colour(method), "width": 2}
        _line(figure, [rank, rank, side], [0.0, down, down], line, marker=look.marker(method) | {"size": [10, 1, 1]})
        anchor = "left" if best_half else "right"
        name = f"{method}<br>{rank:.2f}"
        figure.add_annotation(x=side, y=down, text=name, showarrow=False, xanchor=anchor, align=anchor, xshift=2)
    ends = [1.0, 1 + table["critical_difference"]]
    marker = {"symbol": "line-ns-open", "size": 10, "color": "#888888"}
    _line(figure, ends, [0.5, 0.5], {"width": 2, "color": "#888888"}, marker=marker)
    distance = f"critical difference {table['critical_difference']:.2f}"
    figure.add_annotation(x=sum(ends) / 2, y=0.5, text=distance, showarrow=False, yanchor="bottom", yshift=4)
    ticks = list(range(1, width + 1))
    figure.update_xaxes(range=[max(width, ends[1]) + margin, 1 - margin], side="top", tickvals=ticks, title="mean rank")
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(visible=False, range=[-depth - height * ((width + 1) // 2) + 0.2, 1.2])
    return _plain(figure).update_layout(margin={"l": 12, "t": 64, "b": 12})


def _line(figure: go.Figure, xs: Sequence[float], ys: Sequence[float], line: dict[str, Any], **marker: Any) -> None:
    mode = "lines+markers" if marker else "lines"
    figure.add_scatter(x=xs, y=ys, mode=mode, line=line, hoverinfo="skip", showlegend=False, **marker)


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


def _plain(figure: go.Figure) -> go.Figure:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 12, "t": 28, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},  # above, where it meets no title
        hovermode="closest",
    )
    return figure
