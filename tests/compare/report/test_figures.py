import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from anomaly_zoo.compare.report.figures import GRID, precision, roc
from anomaly_zoo.compare.statistics import curves


def scores(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.random(80) < 0.4
    score = rng.normal(size=80) + label
    return (score.round(0) if ties else score), label


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_roc_lies_on_scikit_learns(seed: int, ties: bool) -> None:
    score, label = scores(seed, ties)
    curve = roc(score, label)
    false_rate, true_rate, _ = roc_curve(label, score, drop_intermediate=False)
    for x, y in zip(GRID, curve, strict=True):
        at = np.isclose(false_rate, x, atol=1e-9)
        expected = true_rate[at].max() if at.any() else np.interp(x, false_rate, true_rate)
        assert y == pytest.approx(expected, abs=1e-9)
    assert (np.diff(curve) >= -1e-12).all()
    assert np.trapezoid(curve, GRID) == pytest.approx(roc_auc_score(label, score), abs=0.02)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_precision_lies_on_scikit_learns(seed: int, ties: bool) -> None:
    score, label = scores(seed, ties)
    precise, recall, _ = precision_recall_curve(label, score)
    for x, y in zip(GRID, precision(score, label), strict=True):
        reached = recall[:-1] >= x - 1e-9  # the last point is scikit-learn's own addition
        highest_threshold = np.flatnonzero(reached)[-1]
        assert y == pytest.approx(precise[highest_threshold])


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_scikit_learns(ties: bool) -> None:
    score, label = scores(9, ties)
    false, recall, precise = curves(score, label)
    expected_false, expected_true, _ = roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose([false, recall], [expected_false[1:], expected_true[1:]])
    # which adds a last point that no threshold has
    expected = [values[::-1][1:] for values in precision_recall_curve(label, score)[:2]]
    np.testing.assert_allclose([precise, recall], expected)


def test_perfect_and_reversed() -> None:
    score, label = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    assert (roc(score, label) == 1).all()
    assert (roc(-score, label)[:-1] == 0).all()
