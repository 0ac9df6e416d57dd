"""Methods ranked over many cells: Friedman, Nemenyi, Wilcoxon, after Demšar (JMLR 2006), with scipy's tests.

scipy.stats is imported by the functions, since it takes longer to import than the help may take to print.
scikit-posthocs brings statsmodels and seaborn with it and only checks these functions in the tests.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_DECIMALS = 12  # means of the same numbers in another order differ after these, and are ties


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


def rank(scores: Float[np.ndarray, "cells methods"]) -> Ranking:
    """Friedman's test and Nemenyi's critical difference; a higher score ranks first.

    Args:
        scores: one row per cell (category), one column per method.

    Raises:
        ValueError: if there are fewer than two cells or methods.
    """
    from scipy import stats

    num_cells, num_methods = scores.shape
    if num_cells < 2 or num_methods < 2:
        raise ValueError(f"ranks need two cells and two methods: got {num_cells} and {num_methods}")
    ranks = stats.rankdata(-scores.round(_DECIMALS), axis=1)
    friedman_p = None
    if num_methods > 2:
        all_tie = bool((ranks == ranks[:, :1]).all())  # scipy would divide by zero
        friedman_p = 1.0 if all_tie else float(stats.friedmanchisquare(*ranks.T).pvalue)
    quantile = float(stats.studentized_range.ppf(0.95, num_methods, np.inf))
    error = (num_methods * (num_methods + 1) / (12 * num_cells)) ** 0.5
    return Ranking(ranks.mean(axis=0), friedman_p, quantile * error)


def wilcoxon(differences: Float[np.ndarray, " cells"]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; zeros are left out, and it is 1 if all are 0.

    It is exact for up to 50 differences, with ties up to 13; above, it is scipy's normal approximation.

    Raises:
        ValueError: if there is no difference.

    >>> wilcoxon(np.array([0.1, 0.3, 0.2, 0.4, 0.5]))  # all of 5 up: 2 of 32 equally likely patterns of signs
    0.0625
    """
    from scipy import stats

    if not len(differences):
        raise ValueError("no differences to test")
    differences = differences.round(_DECIMALS)
    differences = differences[differences != 0]
    return float(stats.wilcoxon(differences).pvalue) if len(differences) else 1.0
