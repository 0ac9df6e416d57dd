"""Every test of ranks beside that of scipy, scikit-posthocs or the paper."""

import numpy as np
import pytest
from scipy import stats

from anomaly_zoo.ranks import chi2_tail, nemenyi, rank, wilcoxon


def test_ranks_are_those_of_scipy_and_scikit_posthocs() -> None:
    import scikit_posthocs

    scores = np.random.default_rng(0).normal(size=(12, 5)) + np.array([0, 0.2, 0.5, 1, 1.2])
    scores[3, 1] = scores[3, 2]  # a tie
    ranking = rank(scores)
    assert ranking.friedman_p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(scores)
    np.testing.assert_allclose(nemenyi(ranking.mean_ranks, 12), theirs, atol=2e-3)
    np.testing.assert_allclose(ranking.mean_ranks, np.mean([stats.rankdata(-row) for row in scores], axis=0))
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


@pytest.mark.parametrize("num_methods", [2, 11, 20, 21])
def test_the_critical_difference_is_that_of_scipy(num_methods: int) -> None:
    scores = np.random.default_rng(0).normal(size=(6, num_methods))
    quantile = stats.studentized_range.ppf(0.95, num_methods, np.inf)
    expected = quantile * (num_methods * (num_methods + 1) / (12 * 6)) ** 0.5
    assert rank(scores).critical_difference == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("num_methods", [3, 4, 7, 8])
@pytest.mark.parametrize("decimals", [1, 8])  # with many ties, and with none
def test_friedman_is_that_of_scipy(num_methods: int, decimals: int) -> None:
    scores = np.random.default_rng(num_methods).normal(size=(9, num_methods)).round(decimals)
    scores[:, 0] += 0.7
    assert rank(scores).friedman_p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue, rel=1e-9)


def test_the_tail_of_chi_squared_is_that_of_scipy() -> None:
    for degrees in range(1, 20):
        for statistic in (0.0, 0.3, 5.0, 40.0, 300.0):
            assert chi2_tail(statistic, degrees) == pytest.approx(stats.chi2.sf(statistic, degrees), rel=1e-9)


@pytest.mark.parametrize("num_cells", [1, 5, 12, 50, 120])
def test_wilcoxon_is_that_of_scipy(num_cells: int) -> None:
    differences = np.random.default_rng(num_cells).normal(size=num_cells) + 0.2
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9)
    tied = differences[:12].round(1)  # up to there scipy is exact with ties and zeros too
    if num_cells > 1:
        every = stats.PermutationMethod(n_resamples=np.inf)
        assert wilcoxon(tied) == pytest.approx(stats.wilcoxon(tied[tied != 0], method=every).pvalue, rel=1e-9)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="got 1 and 3"):
        rank(np.ones((1, 3)))
    with pytest.raises(ValueError, match="no differences"):
        wilcoxon(np.array([]))


def test_two_or_equal_methods() -> None:
    two = rank(np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 1.0]]))
    assert two.friedman_p is None
    assert two.mean_ranks.tolist() == pytest.approx([5 / 3, 4 / 3])
    assert rank(np.ones((4, 3))).friedman_p == 1.0
    assert wilcoxon(np.zeros(5)) == 1.0
    differences = np.array([0.1, 0.3, -0.05, 0.2, 0.4, 0.15])
    assert wilcoxon(differences) == pytest.approx(2 / 64 * 2)  # rank sum 1: 2 of 64 signs are as extreme, on each side
