"""Every statistic of images beside an independent implementation, and intervals beside what they promise."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from anomaly_zoo.compare.statistics import (
    Spread,
    auroc_interval,
    curves,
    delong,
    difference_interval,
    holm,
    mean,
    placements,
    spread,
)  # fmt: skip


def draw(
    rng: np.random.Generator, num: tuple[int, int], shift: tuple[float, float], ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two methods, correlated: anomalous images first, `num` of each kind, a column per method."""
    kinds = []
    for count, middle in zip(num, (np.array(shift), np.zeros(2)), strict=True):
        kinds.append((rng.normal(size=(count, 1)) + rng.normal(size=(count, 2))) / 2**0.5 + middle)
    label = np.repeat([True, False], num)
    score = np.concatenate(kinds)
    return (score.round(1) if ties else score), label


def matrix_of(score: np.ndarray, label: np.ndarray) -> np.ndarray:
    return placements(score[None], label)


@pytest.mark.parametrize("ties", [False, True])
def test_placements_average_to_the_auroc(ties: bool) -> None:
    score, label = draw(np.random.default_rng(0), (30, 50), (1.0, 0.5), ties)
    for column in score.T:
        assert matrix_of(column, label).mean() == pytest.approx(roc_auc_score(label, column), abs=1e-12)


def test_placements_are_averaged_over_seeds() -> None:
    rng = np.random.default_rng(1)
    label = rng.random(40) < 0.6
    for num_seeds in (1, 3, 200):
        scores = rng.normal(size=(num_seeds, 40)).round(1)
        alone = [matrix_of(row, label) for row in scores]
        np.testing.assert_allclose(placements(scores, label), np.mean(alone, axis=0), atol=1e-12)


def spread_of(score: np.ndarray, label: np.ndarray) -> Spread:
    return spread(*(matrix_of(column, label) for column in score.T))


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
    found = spread_of(score, label)
    z, p_value = slow_delong(score, label)
    assert found.difference / found.linear_variance**0.5 == pytest.approx(z, rel=1e-9)
    assert delong(found) == pytest.approx(p_value, rel=1e-6)


def test_delong_of_a_mean_over_categories_adds_independent_variances() -> None:
    rng = np.random.default_rng(3)
    drawn = [draw(rng, (20, 30), (1.0, 0.5)), draw(rng, (40, 10), (1.0, 1.0))]
    parts = [spread_of(score, label) for score, label in drawn]
    both = mean(parts)
    assert both.difference == pytest.approx((parts[0].difference + parts[1].difference) / 2)
    assert both.linear_variance == pytest.approx((parts[0].linear_variance + parts[1].linear_variance) / 4)


def test_methods_that_never_differ_have_no_evidence_against_them() -> None:
    score, label = draw(np.random.default_rng(4), (9, 8), (1.0, 1.0))
    same = spread_of(score[:, [0, 0]], label)
    assert (same.difference, delong(same)) == (0.0, 1.0)
    assert difference_interval(same) == (0.0, 0.0)


def drawn_one_by_one(score: np.ndarray, label: np.ndarray, num_resamples: int) -> np.ndarray:
    """The AUROCs of both methods in every resample, from Mann and Whitney's rank sums."""
    rng = np.random.default_rng(6)
    kinds = np.flatnonzero(label), np.flatnonzero(~label)
    a, n = map(len, kinds)
    rows = []
    for _ in range(num_resamples):
        chosen = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        rows.append((stats.rankdata(score[chosen], axis=0)[:a].sum(axis=0) - a * (a + 1) / 2) / (a * n))
    return np.array(rows)


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_is_that_of_drawing_images_one_by_one(ties: bool) -> None:
    score, label = draw(np.random.default_rng(5), (14, 11), (1.2, 0.5), ties)
    resampled = np.cov(drawn_one_by_one(score, label, 6000).T)
    exact = spread_of(score, label)
    assert exact.covariance.diagonal() == pytest.approx(resampled.diagonal(), rel=0.06)
    assert exact.covariance[0, 1] == pytest.approx(resampled[0, 1], rel=0.12)
    assert spread_of(score[:, ::-1], label).covariance == pytest.approx(exact.covariance[::-1, ::-1])


@pytest.mark.parametrize("num", [(3, 4), (4, 2)])
def test_the_bootstrap_is_exactly_that_of_all_resamples(num: tuple[int, int]) -> None:
    score, label = draw(np.random.default_rng(sum(num)), num, (0.8, 0.3))
    first, second = (matrix_of(column, label) for column in score.T)
    every = [
        (first[np.ix_(rows, columns)].mean(), second[np.ix_(rows, columns)].mean())
        for rows in product(range(num[0]), repeat=num[0])
        for columns in product(range(num[1]), repeat=num[1])
    ]
    covariance = np.cov(np.array(every).T, bias=True)
    exact = spread(first, second)
    assert exact.covariance == pytest.approx(covariance, rel=1e-9)


def test_the_bootstrap_is_that_of_scipy() -> None:
    score, label = draw(np.random.default_rng(7), (24, 18), (1.0, 0.4))
    first, second = (matrix_of(column, label) for column in score.T)

    def statistic(rows: np.ndarray, columns: np.ndarray) -> float:
        picked = np.ix_(rows.astype(int), columns.astype(int))
        return float(first[picked].mean() - second[picked].mean())

    images = (np.arange(24), np.arange(18))
    theirs = stats.bootstrap(images, statistic, vectorized=False, n_resamples=5000, rng=0, method="basic")
    ours = spread(first, second).covariance
    assert (ours.trace() - 2 * ours[0, 1]) ** 0.5 == pytest.approx(theirs.standard_error, rel=0.04)


def degrees(matrix: np.ndarray) -> float:
    """Welch's, from scipy's test of the two kinds of placements."""
    return float(stats.ttest_ind(matrix.mean(axis=1), matrix.mean(axis=0), equal_var=False).df)


def slow_intervals(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """The intervals of both AUROCs, and that of their difference, from resamples and as in the papers."""
    resampled = drawn_one_by_one(score, label, 6000)
    theta = np.array([roc_auc_score(label, column) for column in score.T])
    error, correlation = resampled.std(axis=0), np.corrcoef(resampled.T)[0, 1]
    t = stats.t.ppf(0.975, [degrees(matrix_of(column, label)) for column in score.T])
    centre = stats.norm.ppf(theta)
    low, high = (stats.norm.cdf(centre + sign * t * error / stats.norm.pdf(centre)) for sign in (-1, 1))
    down, up = theta - low, high - theta
    below = (down[0] ** 2 + up[1] ** 2 - 2 * correlation * down[0] * up[1]) ** 0.5
    above = (up[0] ** 2 + down[1] ** 2 - 2 * correlation * up[0] * down[1]) ** 0.5
    difference = theta[0] - theta[1]
    return np.array([low, high]).T, (difference - below, difference + above)


def test_intervals_are_those_of_resamples() -> None:
    score, label = draw(np.random.default_rng(8), (25, 20), (1.6, 0.6))
    alone, difference = slow_intervals(score, label)
    exact = spread_of(score, label)
    for method in (0, 1):
        assert auroc_interval(exact, method) == pytest.approx(tuple(alone[method]), abs=0.006)
    assert difference_interval(exact) == pytest.approx(difference, abs=0.008)


def test_a_mean_over_categories_has_a_narrower_interval() -> None:
    parts = [spread_of(*draw(np.random.default_rng(seed), (40, 40), (1.0, 0.4))) for seed in range(4)]
    widths = [np.ptp(difference_interval(part)) for part in parts]
    assert np.ptp(difference_interval(mean(parts))) == pytest.approx(np.mean(widths) / 2, rel=0.05)
    assert difference_interval(mean([parts[0]] * 4)) != difference_interval(parts[0])


def test_faultless_methods_have_an_interval_too() -> None:
    perfect = np.ones((4, 3))
    low, high = auroc_interval(spread(perfect, perfect))

    def excess(auroc: float) -> float:
        """Newcombe's method 5: how far 1 lies from `auroc`, less 1.96 of the errors it would have there."""
        shape = 1 + (3 + 4 - 2) / 2 * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))
        return float(1 - auroc - 1.959964 * (auroc * (1 - auroc) * shape / 12) ** 0.5)

    assert low == pytest.approx(optimize.brentq(excess, 0.01, 0.999), abs=1e-6)
    assert high == 1.0
    assert auroc_interval(spread(1 - perfect, perfect)) == pytest.approx((0.0, 1 - low))
    assert difference_interval(spread(perfect, perfect)) == pytest.approx((low - 1, 1 - low))
    assert auroc_interval(spread(perfect * 0 + 0.5, perfect)) == (0.5, 0.5)  # all images tie


def covered(num: list[tuple[int, int]], shift: tuple[float, float], repetitions: int) -> tuple[float, float]:
    """How often the interval of a difference, and of an AUROC, of the mean over categories holds the true value."""
    rng = np.random.default_rng([*num[0], int(10 * shift[0])])
    true = [NormalDist().cdf(value / 2**0.5) for value in shift]
    hits = np.zeros(2)
    for _ in range(repetitions):
        parts = [spread_of(*draw(rng, images, shift)) for images in num]
        (low, high), (low_alone, high_alone) = difference_interval(mean(parts)), auroc_interval(mean(parts))
        hits += low <= true[0] - true[1] <= high, low_alone <= true[0] <= high_alone
    return tuple(hits / repetitions)


@pytest.mark.slow
@pytest.mark.parametrize("num", [[(60, 20)], [(40, 40)], [(100, 60)], [(60, 20), (40, 40), (30, 20)]])
@pytest.mark.parametrize("shift", [(1.0, 0.7), (2.0, 1.5), (2.9, 2.2)])
def test_95_percent_intervals_cover_93_to_97_percent(num: list[tuple[int, int]], shift: tuple[float, float]) -> None:
    """AUROCs of 0.69 to 0.98."""
    difference, alone = covered(num, shift, repetitions=2000)
    assert 0.93 <= difference <= 0.97, difference
    assert 0.93 <= alone <= 0.97, alone


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 30):
        p_values = (rng.random(size) ** 3).round(3)
        assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())
    assert holm([]) == []


@pytest.mark.parametrize("decimals", [0, 9])
def test_curves_are_scikit_learns(decimals: int) -> None:
    rng = np.random.default_rng(9)
    label = rng.random(80) < 0.4
    score = (rng.normal(size=80) + label).round(decimals)
    false, recall, precise = curves(score, label)
    expected_false, expected_true, _ = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose([false, recall], [expected_false[1:], expected_true[1:]])
    # which adds a last point that no threshold has
    expected = [values[::-1][1:] for values in precision_recall_curve(label, score)[:2]]
    np.testing.assert_allclose([precise, recall], expected)
