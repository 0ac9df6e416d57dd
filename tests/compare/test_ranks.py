"""Ranks beside scikit-posthocs, the tables of the paper, and counting every pattern of signs."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from anomaly_zoo.compare.statistics import rank, wilcoxon


@pytest.mark.parametrize("seed", range(5))
def test_methods_differ_where_scikit_posthocs_says_so(seed: int) -> None:
    import scikit_posthocs

    scores = np.random.default_rng(seed).normal(size=(12, 5)) + np.array([0, 0.4, 0.8, 1.4, 2])
    scores[3, 1] = scores[3, 2]  # a tie
    ranking = rank(scores)
    distances = np.abs(np.subtract.outer(ranking.mean_ranks, ranking.mean_ranks))
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(scores).to_numpy() < 0.05
    assert (distances > ranking.critical_difference).tolist() == theirs.tolist()
    assert 0 < theirs.sum() < 20
    assert ranking.mean_ranks.sum() == pytest.approx(15)


# q(0.05) / sqrt(2) for 2 to 10 methods, from the table in Demšar's paper
@pytest.mark.parametrize(
    ("num_methods", "q"),
    [*enumerate((1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164), start=2)],
)
def test_the_critical_difference_is_that_of_the_paper(num_methods: int, q: float) -> None:
    scores = np.random.default_rng(0).normal(size=(14, num_methods))
    expected = q * (num_methods * (num_methods + 1) / (6 * 14)) ** 0.5
    assert rank(scores).critical_difference == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("num_cells", [2, 3, 9])
@pytest.mark.parametrize("decimals", [0, 8])  # with many ties, and with none
def test_friedman_is_an_analysis_of_variance_of_ranks(num_cells: int, decimals: int) -> None:
    scores = np.random.default_rng(num_cells).normal(size=(num_cells, 4)).round(decimals)
    ranks = np.array([[np.mean([(row < x).sum(), (row <= x).sum()]) for x in row] for row in -scores])  # less 1/2
    between = ((ranks.mean(axis=0) - 2) ** 2).sum() * num_cells
    within = ((ranks - 2) ** 2).sum() / (num_cells * 3)
    assert rank(scores).friedman_p == pytest.approx(stats.chi2.sf(between / within, 3), rel=1e-9)
    np.testing.assert_allclose(rank(scores).mean_ranks, ranks.mean(axis=0) + 0.5)


def by_counting(differences: np.ndarray) -> float:
    """How many of all patterns of signs have rank sums at least as far from the middle."""
    ranks = stats.rankdata(np.abs(differences))
    sums = np.array([ranks[list(signs)].sum() for signs in product([False, True], repeat=len(ranks))])
    observed = ranks[differences > 0].sum()
    return float(min(1.0, 2 * min(np.mean(sums <= observed + 1e-9), np.mean(sums >= observed - 1e-9))))


@pytest.mark.parametrize("num_cells", [1, 2, 5, 12])
@pytest.mark.parametrize("decimals", [1, 8])  # with many ties, and with none
def test_wilcoxon_is_counting_all_patterns_of_signs(num_cells: int, decimals: int) -> None:
    differences = (np.random.default_rng(num_cells).normal(size=num_cells) + 0.2).round(decimals)
    differences[differences == 0] = 0.1
    expected = by_counting(differences)
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)
    assert wilcoxon(np.array([0.0, *differences])) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_cells", [20, 60])
@pytest.mark.parametrize("decimals", [1, 8])
def test_many_differences_are_near_to_drawn_signs(num_cells: int, decimals: int) -> None:
    rng = np.random.default_rng(num_cells)
    differences = (rng.normal(size=num_cells) + 0.4).round(decimals)
    differences = differences[differences != 0]
    ranks, num = stats.rankdata(np.abs(differences)), len(differences)
    sums = (rng.random((100_000, num)) < 0.5) @ ranks
    middle = num * (num + 1) / 4
    expected = np.mean(np.abs(sums - middle) >= abs(ranks[differences > 0].sum() - middle) - 1e-9)
    assert wilcoxon(differences) == pytest.approx(expected, rel=0.1, abs=0.003)


def test_rounding_breaks_no_tie() -> None:
    first, second = (0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3
    assert first != second
    assert rank(np.array([[first, second, 0.1], [first, second, 0.15]])).mean_ranks.tolist() == [1.5, 1.5, 3]
    assert wilcoxon(np.array([first - second])) == 1.0
    assert wilcoxon(np.array([0.9 - 0.8, 0.8 - 0.7, 0.4, -0.5])) == wilcoxon(np.array([0.1, 0.1, 0.4, -0.5]))


def test_two_or_equal_methods() -> None:
    two = rank(np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 1.0]]))
    assert two.friedman_p is None
    assert two.mean_ranks.tolist() == pytest.approx([5 / 3, 4 / 3])
    assert rank(np.ones((4, 3))).friedman_p == 1.0
    assert wilcoxon(np.zeros(5)) == 1.0
    differences = np.array([0.1, 0.3, -0.05, 0.2, 0.4, 0.15])
    assert wilcoxon(differences) == pytest.approx(2 / 64 * 2)  # rank sum 1: 2 of 64 signs are as extreme, on each side


def test_very_many_methods() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 100))
    assert rank(scores).critical_difference > rank(scores[:, :99]).critical_difference
