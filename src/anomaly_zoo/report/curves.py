"""ROC and precision-recall curves of image scores, averaged over seeds on a fixed grid."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

GRID = np.linspace(0, 1, 101)
Curve = Float[np.ndarray, " grid"]


def roc(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> Curve:
    """The true-positive rate at every false-positive rate of `GRID`; straight where scores are tied.

    Where the rate jumps, the upper end counts.

    >>> roc(np.array([0.1, 0.9, 0.4]), np.array([False, True, True]))[[0, 50, 100]].tolist()
    [1.0, 1.0, 1.0]
    """
    false_rate, true_rate, _ = _counts(score, label)
    last = np.append(np.flatnonzero(np.diff(false_rate)), len(false_rate) - 1)  # the upper end of every jump
    first = np.append(0, last[:-1] + 1)
    # A straight piece starts at the upper end of one jump and ends at the lower end of the next.
    xs = np.ravel(np.column_stack([false_rate[first], false_rate[last]]))
    ys = np.ravel(np.column_stack([true_rate[first], true_rate[last]]))
    return np.array([_upper(xs, ys, x) for x in GRID])


def precision(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> Curve:
    """The precision at the highest threshold that reaches every recall of `GRID`.

    >>> precision(np.array([0.1, 0.9, 0.4]), np.array([True, True, False]))[[0, 50, 100]].round(3).tolist()
    [1.0, 1.0, 0.667]
    """
    _, recall, precise = _counts(score, label)
    return np.asarray(precise[1:][np.searchsorted(recall[1:], GRID - 1e-12)])


def mean(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, point by point."""
    return np.asarray(np.mean(curves, axis=0))


def _counts(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False- and true-positive rate and precision at every distinct score, highest first, after a start at 0."""
    order = np.argsort(-score, kind="stable")
    true, false = np.cumsum(label[order]), np.cumsum(~label[order])
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precise = np.append(1.0, true[ends] / (true[ends] + false[ends]))
    return np.append(0, false[ends] / false[-1]), np.append(0, true[ends] / true[-1]), precise


def _upper(xs: np.ndarray, ys: np.ndarray, x: float) -> float:
    """The piecewise straight line through the points at `x`, and the highest of them where several share `x`."""
    place = int(np.searchsorted(xs, x + 1e-12, side="right")) - 1
    if place == len(xs) - 1 or xs[place + 1] == xs[place]:
        return float(ys[place])
    share = (x - xs[place]) / (xs[place + 1] - xs[place])
    return float(ys[place] + max(share, 0.0) * (ys[place + 1] - ys[place]))
