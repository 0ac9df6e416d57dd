"""How sure a comparison on the same test images is: intervals and tests of image AUROCs from per-image scores.

An image AUROC is the mean of a matrix with one row per anomalous and one column per normal test image (`placements`),
and so is its mean over seeds: average the matrices first. What varies here are the test images; the seeds stay as they
are, and their spread is the standard deviation that every table shows.

The bootstrap draws normal and anomalous images anew, separately and within each category; methods are paired, because a
drawn image brings its scores of all methods. For a mean of such a matrix, what infinitely many resamples would give has
a closed form (Bandos, Rockette and Gur, Communications in Statistics 2007), so nothing is drawn and no seed matters.
Intervals of an AUROC are symmetric on the probit scale, since an AUROC near 1 cannot vary upwards, and as wide as
Student's t says with Satterthwaite's degrees of freedom, since few images know their own variance badly (Brunner and
Munzel, Biometrical Journal 2000, for the degrees); those of a difference are made from them by Zou and Donner's method
(Statistics in Medicine 2008). What covered too rarely or too often is in docs/compare.md.

Further sources: DeLong, DeLong and Clarke-Pearson (Biometrics 1988); Newcombe (Statistics in Medicine 2006) for AUROCs
of exactly 1; Holm (Scandinavian Journal of Statistics 1979).
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_NORMAL = NormalDist()
_NOTHING = 1e-12  # a variance below is rounding


class DeLong(NamedTuple):
    """A difference of AUROCs, its standard error, and the two-sided p-value of its being 0."""

    estimate: float
    standard_error: float
    p_value: float


class Spread(NamedTuple):
    """What the test images of one category say of two methods."""

    aurocs: tuple[float, float]
    variances: tuple[float, float]  # of the AUROCs over bootstrap resamples of the images
    degrees: tuple[float, float]  # of freedom that the variances have, after Satterthwaite
    covariance: float
    linear_variance: float  # of the difference, after DeLong
    num_images: tuple[int, int]  # anomalous, normal


def placements(normal: Float[np.ndarray, " n"], anomalous: Float[np.ndarray, " a"]) -> Float[np.ndarray, "a n"]:
    """For every pair of an anomalous and a normal image: 1 if the anomalous one scores higher, 1/2 for a tie, else 0.

    >>> placements(np.array([0.1, 0.4]), np.array([0.4, 0.9])).mean()  # the AUROC
    np.float64(0.875)
    """
    scores = np.concatenate([anomalous, normal])[None]
    return mean_placements(scores, np.arange(len(scores[0])) < len(anomalous))


def mean_placements(
    scores: Float[np.ndarray, "seeds images"], label: Bool[np.ndarray, " images"]
) -> Float[np.ndarray, "a n"]:
    """The mean over seeds of `placements`, for images whose label says which are anomalous."""
    anomalous, normal = scores[:, label, None], scores[:, None, ~label]
    higher = np.zeros((anomalous.shape[1], normal.shape[2]), dtype=np.int8 if len(scores) < 128 else np.int32)
    for above, below in zip(anomalous, normal, strict=True):
        higher += above > below
        higher -= (above < below).view(np.int8)
    return np.asarray(0.5 + higher / (2 * len(scores)))


def spread(first: Float[np.ndarray, "a n"], second: Float[np.ndarray, "a n"]) -> Spread:
    """How the AUROCs of two methods vary with the images, from their (mean) `placements` for the same images.

    Raises:
        ValueError: if there are fewer than two anomalous or normal images.

    >>> normal, better, worse = np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0]), np.array([2.5, 0.0])
    >>> spread(placements(normal, better), placements(normal, worse)).aurocs[1].__round__(4)
    0.3333
    """
    num_rows, num_columns = first.shape
    if min(first.shape) < 2:
        has = f"{num_rows} anomalous and {num_columns} normal"
        raise ValueError(f"an interval or test needs two anomalous and two normal images: got {has}")
    matrices = (first, second)
    aurocs = [float(matrix.mean()) for matrix in matrices]
    rows = [matrix.mean(axis=1) - auroc for matrix, auroc in zip(matrices, aurocs, strict=True)]
    columns = [matrix.mean(axis=0) - auroc for matrix, auroc in zip(matrices, aurocs, strict=True)]

    def covariance(a: int, b: int) -> float:
        """Rows and columns are drawn independently: a part for each, and one for what is neither (the interaction)."""
        row, column = float(rows[a] @ rows[b]) / num_rows, float(columns[a] @ columns[b]) / num_columns
        whole = float(np.vdot(matrices[a], matrices[b])) / first.size - aurocs[a] * aurocs[b]
        return float(row / num_rows + column / num_columns + (whole - row - column) / first.size)

    linear = [float(np.var(a - b, ddof=1)) / len(a) for a, b in (rows, columns)]
    degrees = [
        _satterthwaite([float(np.var(kind, ddof=1)) / len(kind) for kind in kinds], [num_rows - 1.0, num_columns - 1.0])
        for kinds in zip(rows, columns, strict=True)
    ]
    return Spread(
        (aurocs[0], aurocs[1]),
        (covariance(0, 0), covariance(1, 1)),
        (degrees[0], degrees[1]),
        covariance(0, 1),
        sum(linear),
        first.shape,
    )


def delong(spreads: Sequence[Spread]) -> DeLong:
    """DeLong's test of the mean over categories of the first method's AUROC less the second's.

    Args:
        spreads: one per category, each with its own images.
    """
    estimate = float(np.mean([part.aurocs[0] - part.aurocs[1] for part in spreads]))
    error = sum(part.linear_variance for part in spreads) ** 0.5 / len(spreads)
    if error**2 < _NOTHING:
        return DeLong(estimate, 0.0, 1.0 if abs(estimate) < _NOTHING else 0.0)
    return DeLong(estimate, error, 2 * _NORMAL.cdf(-abs(estimate) / error))


def auroc_interval(spreads: Sequence[Spread], method: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean AUROC over categories, for the first (0) or the second method (1).

    Args:
        spreads: one per category, each with its own images.
        method: which one.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: if `level` is not in (0, 1).
    """
    from scipy import special  # here, since it takes longer to import than the help may take to print

    if not 0 < level < 1:
        raise ValueError(f"level is {level}: choose between 0 and 1")
    mean = float(np.mean([part.aurocs[method] for part in spreads]))
    variances = [max(0.0, part.variances[method]) for part in spreads]
    error = _mean_variance(variances) ** 0.5
    if min(mean, 1 - mean) < _NOTHING:
        anomalous, normal = np.sum([part.num_images for part in spreads], axis=0)
        bound = _below_one(int(anomalous), int(normal), _NORMAL.inv_cdf((1 + level) / 2))
        return (bound, 1.0) if mean > 0.5 else (0.0, 1 - bound)
    if error**2 < _NOTHING:
        return mean, mean
    degrees = _satterthwaite(variances, [part.degrees[method] for part in spreads])
    centre = _NORMAL.inv_cdf(mean)
    half = float(special.stdtrit(degrees, (1 + level) / 2)) * error / _NORMAL.pdf(centre)
    return _NORMAL.cdf(centre - half), _NORMAL.cdf(centre + half)


def difference_interval(spreads: Sequence[Spread], level: float = 0.95) -> tuple[float, float]:
    """Paired bootstrap interval of the mean over categories of the first method's AUROC less the second's.

    Where the methods rank all images alike there is nothing to draw, and the interval is a point, unless both are
    faultless.

    Args:
        spreads: one per category, each with its own images.
        level: of confidence, in (0, 1).

    Raises:
        ValueError: if `level` is not in (0, 1).
    """
    (low_a, high_a), (low_b, high_b) = (auroc_interval(spreads, method, level) for method in (0, 1))
    a, b = (float(np.mean([part.aurocs[method] for part in spreads])) for method in (0, 1))
    var_a, var_b = (_mean_variance([part.variances[method] for part in spreads]) for method in (0, 1))
    covariance = _mean_variance([part.covariance for part in spreads])
    fixed = min(var_a, var_b) < _NOTHING  # no resample changes this AUROC: it is 1, 0, or all images tie
    if not fixed and var_a + var_b - 2 * covariance < _NOTHING:
        return a - b, a - b
    correlation = 0.0 if fixed else min(1.0, max(-1.0, covariance / (var_a * var_b) ** 0.5))

    def reach(down: float, up: float) -> float:
        """How far the difference is from its end, from how far the AUROCs are from theirs."""
        return float(max(0.0, down**2 + up**2 - 2 * correlation * down * up) ** 0.5)

    return a - b - reach(a - low_a, high_b - b), a - b + reach(high_a - a, b - low_b)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values of a family of tests, adjusted so that any error in the family stays at the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _mean_variance(variances: Sequence[float]) -> float:
    """Of the mean of independent categories."""
    return sum(variances) / len(variances) ** 2


def _satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances, from those of its parts; infinite if nothing varies."""
    parts = sum(variance**2 / degree for variance, degree in zip(variances, degrees, strict=True))
    return sum(variances) ** 2 / parts if parts > 0 else float("inf")


def _below_one(num_anomalous: int, num_normal: int, z: float) -> float:
    """Newcombe's lower limit (his method 5) where the AUROC is 1: the AUROC that is `z` of its own errors below."""
    from scipy import optimize  # here, since few need it

    def excess(auroc: float) -> float:
        """(1 - auroc)^2 less (z error)^2, both divided by 1 - auroc and multiplied by the number of pairs."""
        size = (num_anomalous + num_normal) / 2 - 1
        shape = 1 + size * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
        return (1 - auroc) * num_anomalous * num_normal - z**2 * auroc * shape

    return float(optimize.brentq(excess, 0.0, 1.0))
