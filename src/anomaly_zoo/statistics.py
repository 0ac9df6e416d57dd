"""How sure a comparison is: intervals and tests on per-image scores, and ranks over many cells.

An image AUROC is the mean of a matrix with one row per anomalous and one column per normal test image (`placements`).
So are the difference of two methods and its mean over seeds: subtract or average the matrices first. What varies here
are the test images; the seeds stay as they are, and their spread is the standard deviation that every table shows.

Sources: DeLong, DeLong and Clarke-Pearson (Biometrics 1988); Rao and Wu (JASA 1988) for the size of the resamples; Holm
(Scandinavian Journal of Statistics 1979); Demšar (JMLR 2006) for ranks and the critical difference.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

NUM_RESAMPLES = 2000
_NORMAL = NormalDist()


class DeLong(NamedTuple):
    """A mean AUROC or difference of AUROCs, its standard error, and the two-sided p-value of its being 0."""

    estimate: float
    standard_error: float
    p_value: float


class Ranking(NamedTuple):
    """Methods ranked over cells: 1 is the best, ties share their mean rank.

    Attributes:
        mean_ranks: one per method.
        friedman_p: of all methods being alike; None for two methods (use `wilcoxon`).
        critical_difference: mean ranks that are further apart differ at the 5 % level (Nemenyi).
    """

    mean_ranks: Float[np.ndarray, " methods"]
    friedman_p: float | None
    critical_difference: float


def placements(normal: Float[np.ndarray, " n"], anomalous: Float[np.ndarray, " a"]) -> Float[np.ndarray, "a n"]:
    """For every pair of an anomalous and a normal image: 1 if the anomalous one scores higher, 1/2 for a tie, else 0.

    >>> placements(np.array([0.1, 0.4]), np.array([0.4, 0.9])).mean()  # the AUROC
    np.float64(0.875)
    """
    above = anomalous[:, None] > normal[None, :]
    return np.asarray(above + (anomalous[:, None] == normal[None, :]) / 2)


def delong(matrices: Sequence[Float[np.ndarray, "_ _"]]) -> DeLong:
    """DeLong's test of a mean of `placements`, or of differences of them for the same images.

    Args:
        matrices: one per category, each with its own images; their means are averaged.

    Raises:
        ValueError: if there is no matrix, or one has fewer than two rows or columns.

    >>> delong([placements(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0]))]).estimate.__round__(4)
    0.8333
    """
    _check(matrices)
    estimate = float(np.mean([matrix.mean() for matrix in matrices]))
    variance = 0.0
    for matrix in matrices:
        for axis in (0, 1):
            means = matrix.mean(axis=axis)
            variance += float(means.var(ddof=1)) / len(means) / len(matrices) ** 2
    error = variance**0.5
    if error == 0:
        return DeLong(estimate, 0.0, 1.0 if estimate == 0 else 0.0)
    return DeLong(estimate, error, 2 * _NORMAL.cdf(-abs(estimate) / error))


def bootstrap_interval(
    matrices: Sequence[Float[np.ndarray, "_ _"]], level: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean of `placements`, or of differences of them for the same images.

    Normal and anomalous images are drawn anew separately, and within each category. Methods are paired, because a drawn
    image brings its scores of both. One image fewer is drawn than there are: drawing as many gives intervals that are
    too short by a factor of sqrt(1 - 1/n) on the few images of a category. Where all images agree there is nothing to
    draw, and the interval is a point.

    Args:
        matrices: one per category, each with its own images; their means are averaged.
        level: of confidence, in (0, 1).
        num_resamples: more are steadier and slower.
        seed: of the draws.

    Raises:
        ValueError: if there is no matrix, one has fewer than two rows or columns, or `level` is not in (0, 1).
    """
    _check(matrices)
    return interval([resample(matrix, num_resamples, (seed, number)) for number, matrix in enumerate(matrices)], level)


def resample(
    matrix: Float[np.ndarray, "a n"], num_resamples: int = NUM_RESAMPLES, seed: int | tuple[int, ...] = 0
) -> Float[np.ndarray, " resamples"]:
    """The mean of `matrix` in every bootstrap resample of its images, see `bootstrap_interval`."""
    counts = (_counts(size, num_resamples, (seed, side)).astype(np.float32) for side, size in enumerate(matrix.shape))
    rows, columns = counts
    sums = np.einsum("bn,bn->b", rows @ matrix.astype(np.float32), columns)
    return np.asarray(sums / ((matrix.shape[0] - 1) * (matrix.shape[1] - 1)), dtype=np.float64)


def interval(drawn: Sequence[Float[np.ndarray, " resamples"]], level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean over categories from what `resample` gave for each of them, with different seeds.

    Raises:
        ValueError: if `level` is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: choose between 0 and 1")
    low, high = np.quantile(np.mean(drawn, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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


def wilcoxon(differences: Float[np.ndarray, " cells"]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where all differences are 0.

    Raises:
        ValueError: if there is no difference.
    """
    if not len(differences):
        raise ValueError("no differences to test")
    if not np.any(differences):
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(differences).pvalue)


def rank(scores: Float[np.ndarray, "cells methods"], alpha: float = 0.05) -> Ranking:
    """Friedman's test and Nemenyi's critical difference; a higher score ranks first.

    Args:
        scores: one row per cell (category), one column per method.
        alpha: of the critical difference.

    Raises:
        ValueError: if there are fewer than two cells or methods.
    """
    num_cells, num_methods = scores.shape
    if num_cells < 2 or num_methods < 2:
        raise ValueError(f"ranks need two cells and two methods: got {num_cells} and {num_methods}")
    from scipy import stats

    mean_ranks = stats.rankdata(-scores, axis=1).mean(axis=0)
    error = (num_methods * (num_methods + 1) / (6 * num_cells)) ** 0.5
    friedman_p = None
    if num_methods > 2:
        friedman_p = float(stats.friedmanchisquare(*scores.T).pvalue) if np.any(np.ptp(scores, axis=1)) else 1.0
    return Ranking(mean_ranks, friedman_p, _range_quantile(num_methods, alpha) / 2**0.5 * error)


def nemenyi(mean_ranks: Float[np.ndarray, " methods"], num_cells: int) -> Float[np.ndarray, "methods methods"]:
    """The p-value of Nemenyi's test for every pair of methods, from their mean ranks over `num_cells` cells."""
    from scipy import stats

    num_methods = len(mean_ranks)
    error = (num_methods * (num_methods + 1) / (6 * num_cells)) ** 0.5
    p_values = np.ones((num_methods, num_methods))
    for a, b in combinations(range(num_methods), 2):
        distance = abs(mean_ranks[a] - mean_ranks[b]) / error * 2**0.5
        p_values[a, b] = p_values[b, a] = stats.studentized_range.sf(distance, num_methods, np.inf)
    return p_values


def _check(matrices: Sequence[Float[np.ndarray, "_ _"]]) -> None:
    if not matrices or any(min(matrix.shape) < 2 for matrix in matrices):
        shapes = ", ".join(f"{rows} anomalous and {columns} normal" for rows, columns in (m.shape for m in matrices))
        raise ValueError(f"an interval or test needs two anomalous and two normal images: got {shapes or 'no images'}")


@lru_cache(maxsize=128)  # all methods, seeds and shots of a category draw the same images
def _counts(num_images: int, num_resamples: int, seed: tuple[Any, ...]) -> UInt8[np.ndarray, "b images"]:
    """How often each image is among the `num_images - 1` drawn of each resample."""
    rng = np.random.default_rng([int(part) for part in np.hstack([np.ravel(part) for part in seed])])
    drawn = (
        rng.integers(num_images, size=(num_resamples, num_images - 1)) + num_images * np.arange(num_resamples)[:, None]
    )
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_images).reshape(num_resamples, num_images)
    return np.minimum(counts, 255).astype(np.uint8)


@cache
def _range_quantile(num_methods: int, alpha: float) -> float:
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - alpha, num_methods, np.inf))
