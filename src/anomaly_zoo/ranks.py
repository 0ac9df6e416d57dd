"""Methods ranked over many cells: Friedman, Nemenyi, Wilcoxon, after Demšar (JMLR 2006).

The tests are written out, because importing scipy.stats takes longer than all else that `compare` does for a study;
scipy and scikit-posthocs check them in the tests.
"""

from itertools import combinations
from math import erfc, exp, gamma
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The 95 % quantiles of the studentised range with infinitely many degrees of freedom, for 2 to 20 methods
_RANGE_95 = (
    2.771808, 3.314493, 3.633160, 3.857656, 4.030092, 4.169554, 4.286309, 4.386509, 4.474124, 4.551864,
    4.621655, 4.684920, 4.742732, 4.795924, 4.845154, 4.890951, 4.933745, 4.973892, 5.011689,
)  # fmt: skip


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
    ranks = _ranks(-scores)
    mean_ranks = ranks.mean(axis=0)
    friedman_p = None
    if num_methods > 2:
        scatter = float(((ranks - ranks.mean()) ** 2).sum())  # less than usual where there are ties
        between = float(((mean_ranks - ranks.mean()) ** 2).sum())
        statistic = num_cells**2 * (num_methods - 1) * between / scatter if scatter else 0.0
        friedman_p = chi2_tail(statistic, num_methods - 1)
    return Ranking(mean_ranks, friedman_p, _range_quantile(num_methods, alpha) * _error(num_methods, num_cells))


def wilcoxon(differences: Float[np.ndarray, " cells"]) -> float:
    """Exact two-sided p-value of Wilcoxon's signed-rank test, with ties; zeros are left out, and 1 if all are 0.

    Raises:
        ValueError: if there is no difference.

    >>> wilcoxon(np.array([0.1, 0.3, 0.2, 0.4, 0.5]))  # all of 5 up: 2 of 32 equally likely patterns of signs
    0.0625
    """
    if not len(differences):
        raise ValueError("no differences to test")
    differences = differences[differences != 0]
    steps = (2 * _ranks(np.abs(differences)[None])[0]).astype(int)  # doubled, so that shared ranks are whole
    chance = np.zeros(int(steps.sum()) + 1)
    chance[0] = 1.0
    for step in steps:  # every rank is positive or negative with the same chance
        moved = np.zeros_like(chance)
        moved[step:] = chance[: len(chance) - step]
        chance = (chance + moved) / 2
    observed = int(steps[differences > 0].sum())
    return float(min(1.0, 2 * min(chance[: observed + 1].sum(), chance[observed:].sum())))


def nemenyi(mean_ranks: Float[np.ndarray, " methods"], num_cells: int) -> Float[np.ndarray, "methods methods"]:
    """The p-value of Nemenyi's test for every pair of methods, from their mean ranks over `num_cells` cells."""
    from scipy import stats

    num_methods = len(mean_ranks)
    p_values = np.ones((num_methods, num_methods))
    for a, b in combinations(range(num_methods), 2):
        distance = abs(mean_ranks[a] - mean_ranks[b]) / _error(num_methods, num_cells)
        p_values[a, b] = p_values[b, a] = stats.studentized_range.sf(distance, num_methods, np.inf)
    return p_values


def chi2_tail(statistic: float, degrees: int) -> float:
    """The chance that a chi-squared variable exceeds `statistic`: a finite sum for whole degrees of freedom.

    >>> round(chi2_tail(5.991, 2), 3), round(chi2_tail(3.841, 1), 3)
    (0.05, 0.05)
    """
    half, odd = statistic / 2, degrees % 2
    powers = [place + odd / 2 for place in range((degrees - odd) // 2)]
    tail = erfc(half**0.5) if odd else 0.0
    return float(min(1.0, tail + sum(exp(-half) * half**power / gamma(power + 1) for power in powers)))


def _ranks(values: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, "rows n"]:
    """Within each row, 1 for the lowest; ties share their mean."""
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    alike = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return np.asarray(below + (alike + 1) / 2)


def _error(num_methods: int, num_cells: int) -> float:
    """What a difference of mean ranks is divided by to be a studentised range."""
    return float((num_methods * (num_methods + 1) / (12 * num_cells)) ** 0.5)


def _range_quantile(num_methods: int, alpha: float) -> float:
    if alpha == 0.05 and num_methods - 2 < len(_RANGE_95):
        return _RANGE_95[num_methods - 2]
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - alpha, num_methods, np.inf))
