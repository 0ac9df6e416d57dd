"""How sure a comparison is: of image AUROCs on the same test images, and of ranks over categories.

An image AUROC is the mean of a matrix with one row per anomalous and one column per normal test image (`placements`).
The bootstrap draws normal and anomalous images anew, separately and within each category; methods are paired and seeds
stay as they are. What infinitely many resamples of such a mean would give has a closed form (Bandos, Rockette and Gur,
Communications in Statistics 2007), so nothing is drawn. Intervals (95 %) of an AUROC are symmetric on the probit scale,
and as wide as Student's t says with Satterthwaite's degrees of freedom (Brunner and Munzel, Biometrical Journal 2000);
those of a difference are made from them by Zou and Donner's method (Statistics in Medicine 2008).

Further sources: DeLong, DeLong and Clarke-Pearson (Biometrics 1988); Newcombe (Statistics in Medicine 2006) for AUROCs
of exactly 1; Holm (Scandinavian Journal of Statistics 1979); Demšar (JMLR 2006) for the ranks.
"""

from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import optimize, special, stats

_NORMAL = NormalDist()
_UPPER = 0.975  # the upper end of a 95 % interval
_NOTHING = 1e-12  # a variance below is rounding
_DECIMALS = 12  # means of the same numbers in another order differ after these, and are ties


class Spread(NamedTuple):
    """How the AUROCs of two methods vary with the test images, of one category or in the mean over several."""

    aurocs: Float[np.ndarray, "2"]
    difference: float
    covariance: Float[np.ndarray, "2 2"]  # of the AUROCs over bootstrap resamples of the images
    degrees: Float[np.ndarray, "2"]  # of freedom that the variances have, after Satterthwaite
    linear_variance: float  # of the difference, after DeLong
    num_images: tuple[int, int]  # anomalous, normal


class Ranking(NamedTuple):
    """Methods ranked over categories: 1 is the best, ties share their mean rank."""

    mean_ranks: Float[np.ndarray, " methods"]
    friedman_p: float | None  # of all methods being alike; None for two methods (use `wilcoxon`)
    critical_difference: float  # mean ranks that are further apart differ at the 5 % level (Nemenyi)


def placements(
    scores: Float[np.ndarray, "seeds images"], label: Bool[np.ndarray, " images"]
) -> Float[np.ndarray, "a n"]:
    """For every anomalous and normal image: 1 if the anomalous one scores higher, 1/2 for a tie, else 0; over seeds.

    >>> placements(np.array([[0.1, 0.4, 0.4, 0.9]]), np.array([False, False, True, True])).mean()  # the AUROC
    np.float64(0.875)
    """
    anomalous, normal = scores[:, label, None], scores[:, None, ~label]
    higher = np.zeros((anomalous.shape[1], normal.shape[2]), dtype=np.int8 if len(scores) < 128 else np.int32)
    for above, below in zip(anomalous, normal, strict=True):
        higher += above > below
        higher -= (above < below).view(np.int8)
    return np.asarray(0.5 + higher / (2 * len(scores)))


def spread(first: Float[np.ndarray, "a n"], second: Float[np.ndarray, "a n"]) -> Spread:
    """From the `placements` of two methods for the same images, two or more of each kind."""
    num_rows, num_columns = first.shape
    both = (first, second)
    aurocs = [float(matrix.mean()) for matrix in both]
    rows = [matrix.mean(axis=1) - auroc for matrix, auroc in zip(both, aurocs, strict=True)]
    columns = [matrix.mean(axis=0) - auroc for matrix, auroc in zip(both, aurocs, strict=True)]

    def covariance(a: int, b: int) -> float:
        """Rows and columns are drawn independently: a part for each, and one for what is neither (the interaction)."""
        row, column = float(rows[a] @ rows[b]) / num_rows, float(columns[a] @ columns[b]) / num_columns
        whole = float(np.vdot(both[a], both[b])) / first.size - aurocs[a] * aurocs[b]
        return float(row / num_rows + column / num_columns + (whole - row - column) / first.size)

    of_means = np.array([[np.var(kind, ddof=1) / len(kind) for kind in kinds] for kinds in (rows, columns)])
    return Spread(
        np.array(aurocs),
        aurocs[0] - aurocs[1],
        np.array([[covariance(a, b) for b in (0, 1)] for a in (0, 1)]),
        _satterthwaite(of_means, np.array([[num_rows - 1.0], [num_columns - 1.0]])),
        sum(float(np.var(a - b, ddof=1)) / len(a) for a, b in (rows, columns)),
        (num_rows, num_columns),
    )


def mean(spreads: Iterable[Spread]) -> Spread:
    """That of the mean AUROC over categories, each of which has its own images."""
    parts = map(np.array, zip(*spreads, strict=True))
    aurocs, differences, covariances, degrees, linear, num_images = parts
    count = len(aurocs)
    return Spread(
        aurocs.mean(axis=0),
        float(differences.mean()),
        covariances.sum(axis=0) / count**2,
        _satterthwaite(np.diagonal(covariances, axis1=1, axis2=2).clip(min=0), degrees),
        float(linear.sum()) / count**2,
        tuple(num_images.sum(axis=0).tolist()),
    )


def delong(spread: Spread) -> float:
    """DeLong's p-value of the first method's AUROC being that of the second."""
    if spread.linear_variance < _NOTHING:
        return 1.0 if abs(spread.difference) < _NOTHING else 0.0
    return 2 * _NORMAL.cdf(-abs(spread.difference) / spread.linear_variance**0.5)


def auroc_interval(spread: Spread, method: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the AUROC of the first (0) or the second method (1)."""
    auroc, variance = float(spread.aurocs[method]), max(0.0, float(spread.covariance[method, method]))
    if min(auroc, 1 - auroc) < _NOTHING:
        bound = _below_one(*spread.num_images)
        return (bound, 1.0) if auroc > 0.5 else (0.0, 1 - bound)
    if variance < _NOTHING:
        return auroc, auroc
    centre = _NORMAL.inv_cdf(auroc)
    half = float(special.stdtrit(spread.degrees[method], _UPPER)) * variance**0.5 / _NORMAL.pdf(centre)
    return _NORMAL.cdf(centre - half), _NORMAL.cdf(centre + half)


def difference_interval(spread: Spread) -> tuple[float, float]:
    """Paired bootstrap interval of the first AUROC less the second; a point where both rank all images alike."""
    (low_a, high_a), (low_b, high_b) = auroc_interval(spread, 0), auroc_interval(spread, 1)
    a, b = spread.aurocs.tolist()
    (var_a, covariance), (_, var_b) = spread.covariance.tolist()
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
    order = np.argsort(p_values, kind="stable")
    scaled = np.arange(len(p_values), 0, -1) * np.asarray(p_values)[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(scaled.clip(max=1.0))
    return list(adjusted.tolist())


def rank(scores: Float[np.ndarray, "categories methods"]) -> Ranking:
    """Friedman's test and Nemenyi's critical difference for two or more categories and methods; higher is better."""
    num_categories, num_methods = scores.shape
    ranks = stats.rankdata(-scores.round(_DECIMALS), axis=1)
    friedman_p = None
    if num_methods > 2:
        all_tie = bool((ranks == ranks[:, :1]).all())  # scipy would divide by zero
        friedman_p = 1.0 if all_tie else float(stats.friedmanchisquare(*ranks.T).pvalue)
    quantile = float(stats.studentized_range.ppf(0.95, num_methods, np.inf))
    error = (num_methods * (num_methods + 1) / (12 * num_categories)) ** 0.5
    return Ranking(ranks.mean(axis=0), friedman_p, quantile * error)


def wilcoxon(differences: Float[np.ndarray, " categories"]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; zeros are left out, and it is 1 if all are 0.

    It is exact for up to 50 differences, with ties up to 13; above, it is scipy's normal approximation.

    >>> wilcoxon(np.array([0.1, 0.3, 0.2, 0.4, 0.5]))  # all of 5 up: 2 of 32 equally likely patterns of signs
    0.0625
    """
    differences = differences.round(_DECIMALS)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0


def curves(score: Float[np.ndarray, " n"], label: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "3 _"]:
    """False-positive rate, recall and precision at every threshold that changes something, the highest first.

    >>> curves(np.array([0.2, 0.9]), np.array([False, True])).tolist()
    [[0.0, 1.0], [1.0, 1.0], [1.0, 0.5]]
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # tied scores share a threshold
    true, false = np.cumsum(label[order])[last], np.cumsum(~label[order])[last]
    return np.stack([false / false[-1], true / true[-1], true / (true + false)])


def _satterthwaite(
    variances: Float[np.ndarray, "parts 2"], degrees: Float[np.ndarray, "parts _"]
) -> Float[np.ndarray, "2"]:
    """Degrees of freedom of a sum of independent variances, from those of its parts; infinite if nothing varies."""
    parts = (variances**2 / degrees).sum(axis=0)
    return np.where(parts > 0, variances.sum(axis=0) ** 2 / np.where(parts > 0, parts, 1), np.inf)


def _below_one(num_anomalous: int, num_normal: int) -> float:
    """Newcombe's lower limit (his method 5) where the AUROC is 1: the AUROC that is `z` of its own errors below."""
    z, size = _NORMAL.inv_cdf(_UPPER), (num_anomalous + num_normal) / 2 - 1

    def excess(auroc: float) -> float:
        """(1 - auroc)^2 less (z error)^2, both divided by 1 - auroc and multiplied by the number of pairs."""
        shape = 1 + size * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
        return (1 - auroc) * num_anomalous * num_normal - z**2 * auroc * shape

    return float(optimize.brentq(excess, 0.0, 1.0))
