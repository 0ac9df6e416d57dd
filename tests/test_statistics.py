"""Every statistic beside an independent implementation, and intervals beside what they promise."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from anomaly_zoo.statistics import (
    bootstrap_interval,
    delong,
    holm,
    interval,
    nemenyi,
    placements,
    rank,
    resample,
    wilcoxon,
)


def draw(
    rng: np.random.Generator, num: tuple[int, int], shift: tuple[float, float], ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two methods, correlated: anomalous images first, `num` of each kind, a column per method."""
    kinds = []
    for count, mean in zip(num, (np.array(shift), np.zeros(2)), strict=True):
        kinds.append((rng.normal(size=(count, 1)) + rng.normal(size=(count, 2))) / 2**0.5 + mean)
    label = np.repeat([True, False], num)
    score = np.concatenate(kinds)
    return (score.round(1) if ties else score), label


def matrix_of(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    return placements(score[~label], score[label])


@pytest.mark.parametrize("ties", [False, True])
def test_placements_average_to_the_auroc(ties: bool) -> None:
    score, label = draw(np.random.default_rng(0), (30, 50), (1.0, 0.5), ties)
    for column in score.T:
        assert matrix_of(column, label).mean() == pytest.approx(roc_auc_score(label, column), abs=1e-12)


def slow_delong(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """z and p for the difference of two AUROCs, from the covariance matrices of the paper, with midranks."""
    m, n = int(label.sum()), int((~label).sum())
    v10, v01, theta = [], [], []
    for column in score.T:
        both = stats.rankdata(column)
        v10.append((both[label] - stats.rankdata(column[label])) / n)
        v01.append(1 - (both[~label] - stats.rankdata(column[~label])) / m)
        theta.append(v10[-1].mean())
    covariance = np.cov(np.array(v10)) / m + np.cov(np.array(v01)) / n
    contrast = np.array([1.0, -1.0])
    z = float(contrast @ np.array(theta) / np.sqrt(contrast @ covariance @ contrast))
    return z, float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("num", [(5, 9), (30, 20), (100, 60)])
def test_delong_is_that_of_the_paper(num: tuple[int, int], ties: bool) -> None:
    score, label = draw(np.random.default_rng(sum(num)), num, (1.0, 0.6), ties)
    first, second = (matrix_of(column, label) for column in score.T)
    test = delong([first - second])
    z, p_value = slow_delong(score, label)
    assert test.estimate / test.standard_error == pytest.approx(z, rel=1e-9)
    assert test.p_value == pytest.approx(p_value, rel=1e-6)


def test_delong_of_a_mean_over_categories_adds_independent_variances() -> None:
    rng = np.random.default_rng(3)
    drawn = [draw(rng, (20, 30), (1.0, 0.5)), draw(rng, (40, 10), (1.0, 1.0))]
    parts = [np.subtract(*(matrix_of(column, label) for column in score.T)) for score, label in drawn]
    alone = [delong([part]) for part in parts]
    both = delong(parts)
    assert both.estimate == pytest.approx(np.mean([test.estimate for test in alone]))
    assert both.standard_error == pytest.approx(np.hypot(alone[0].standard_error, alone[1].standard_error) / 2)


def test_methods_that_never_differ_have_no_evidence_against_them() -> None:
    assert delong([np.zeros((3, 4))]) == (0.0, 0.0, 1.0)
    assert bootstrap_interval([np.zeros((3, 4))]) == (0.0, 0.0)


def test_the_bootstrap_is_that_of_drawing_images_one_by_one() -> None:
    score, label = draw(np.random.default_rng(5), (14, 11), (1.2, 0.5))
    anomalous, normal = np.flatnonzero(label), np.flatnonzero(~label)
    rng = np.random.default_rng(6)
    slow = []
    for _ in range(3000):
        chosen = np.concatenate([rng.choice(kind, len(kind) - 1) for kind in (anomalous, normal)])
        ranks = stats.rankdata(score[chosen], axis=0)[: len(anomalous) - 1].sum(axis=0)  # Mann and Whitney's statistic
        slow.append((ranks[0] - ranks[1]) / (len(anomalous) - 1) / (len(normal) - 1))
    matrix = np.subtract(*(matrix_of(column, label) for column in score.T))
    quick = resample(matrix, 20_000)
    assert quick.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 3000**0.5)
    assert quick.std() == pytest.approx(np.std(slow), rel=0.06)
    low, high = bootstrap_interval([matrix], num_resamples=20_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.15 * np.std(slow))


def test_the_bootstrap_is_scipys_where_one_image_more_or_less_does_not_matter() -> None:
    score, label = draw(np.random.default_rng(7), (150, 150), (1.0, 0.4))
    matrix = np.subtract(*(matrix_of(column, label) for column in score.T))

    def statistic(rows: np.ndarray, columns: np.ndarray) -> float:
        return float(matrix[np.ix_(rows.astype(int), columns.astype(int))].mean())

    images = (np.arange(150), np.arange(150))
    theirs = stats.bootstrap(images, statistic, vectorized=False, method="percentile", n_resamples=3000, rng=0)
    ours = bootstrap_interval([matrix], num_resamples=3000)
    spread = theirs.standard_error
    assert ours == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=0.2 * spread)


def test_a_wider_level_holds_a_narrower_one() -> None:
    score, label = draw(np.random.default_rng(8), (20, 20), (1.0, 0.4))
    matrix = matrix_of(score[:, 0], label)
    (a, d), (b, c) = (bootstrap_interval([matrix], level=level) for level in (0.99, 0.5))
    assert a < b < matrix.mean() < c < d
    assert bootstrap_interval([matrix]) == bootstrap_interval([matrix])
    assert interval([resample(matrix, seed=(0, 0))]) == bootstrap_interval([matrix])


@pytest.mark.slow
def test_95_percent_intervals_cover_93_to_97_percent() -> None:
    hits, total = 0, 0
    rng = np.random.default_rng(0)
    normal = NormalDist()
    for num, shift in (((40, 40), (1.0, 0.7)), ((40, 40), (2.0, 1.5)), ((80, 60), (1.5, 1.5)), ((120, 40), (2.0, 1.0))):
        true = normal.cdf(shift[0] / 2**0.5) - normal.cdf(shift[1] / 2**0.5)
        for _ in range(500):
            score, label = draw(rng, num, shift)
            first, second = (matrix_of(column, label) for column in score.T)
            low, high = bootstrap_interval([first - second], num_resamples=1000, seed=total)
            hits, total = hits + (low <= true <= high), total + 1
    assert 0.93 <= hits / total <= 0.97, hits / total


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p_values = (rng.random(size) ** 3).round(3)
        assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())
    assert holm([]) == []


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


def test_two_or_equal_methods() -> None:
    two = rank(np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 1.0]]))
    assert two.friedman_p is None
    assert two.mean_ranks.tolist() == pytest.approx([5 / 3, 4 / 3])
    assert rank(np.ones((4, 3))).friedman_p == 1.0
    assert wilcoxon(np.zeros(5)) == 1.0
    differences = np.array([0.1, 0.3, -0.05, 0.2, 0.4, 0.15])
    assert wilcoxon(differences) == pytest.approx(2 / 64 * 2)  # rank sum 1: 2 of 64 signs are as extreme, on each side


@pytest.mark.parametrize("matrices", [[], [np.zeros((1, 5))], [np.zeros((5, 5)), np.zeros((5, 1))]])
def test_too_few_images_are_named(matrices: list[np.ndarray]) -> None:
    for function in (delong, bootstrap_interval):
        with pytest.raises(ValueError, match="needs two anomalous and two normal images: got"):
            function(matrices)


def test_other_mistakes() -> None:
    with pytest.raises(ValueError, match=r"level is 95\.0"):
        bootstrap_interval([np.ones((3, 3))], level=95.0)
    with pytest.raises(ValueError, match="got 1 and 3"):
        rank(np.ones((1, 3)))
    with pytest.raises(ValueError, match="no differences"):
        wilcoxon(np.array([]))
