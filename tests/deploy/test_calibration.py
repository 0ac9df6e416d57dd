from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from anomaly_zoo.deploy.calibration import calibrate, tail_quantile


@pytest.mark.parametrize("count", [2, 4, 8, 16])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_one_more_normal_score_exceeds_the_threshold_as_often_as_asked_for(count: int, rate: float) -> None:
    draws = np.random.default_rng(0).normal(5, 2, size=(4000, count + 1))
    thresholds = [tail_quantile(scores.tolist(), rate) for scores in draws[:, 1:]]
    alarms = np.mean(draws[:, 0] > thresholds)
    assert alarms == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 4000) ** 0.5)


def test_the_p_value_falls_below_the_rate_exactly_above_the_threshold() -> None:
    scores = [2.0, 3.5, 3.0, 4.0]
    calibration = calibrate(scores, [1.0, 1.5, 1.2, 1.1], 0.5, false_alarm_rate=0.03)
    threshold = calibration.threshold
    assert threshold is not None
    spread = stats.sem(scores) * (len(scores) + 1) ** 0.5  # s / sqrt(n) * sqrt(n + 1)
    assert threshold == pytest.approx(stats.t(3, np.mean(scores), spread).isf(0.03))
    assert calibration.p_value(threshold) == pytest.approx(0.03, rel=1e-9)
    for score in np.linspace(0, 20, 101):
        assert (calibration.p_value(score) < 0.03) == (score > threshold)
        tail = stats.t(3, np.mean(scores), spread).sf(score)
        assert calibration.p_value(score) == pytest.approx(tail, rel=0.02, abs=2e-3)
    assert calibration.p_scores == sorted(set(calibration.p_scores))
    assert calibration.map_threshold == tail_quantile([1.0, 1.5, 1.2, 1.1], 0.03)


def test_conformal_p_values_of_exchangeable_scores_are_uniform() -> None:
    draws = np.random.default_rng(1).gamma(2, size=(4000, 10))
    calibration = calibrate([1.0, 2.0], [1.0, 2.0], 0.0)
    found = [replace(calibration, image_scores=others).conformal_p_value(new) for new, *others in draws.tolist()]
    assert min(found) == 0.1
    for level in (0.1, 0.3, 0.7):
        assert np.mean(np.array(found) <= level + 1e-9) == pytest.approx(level, abs=0.03)


def test_scores_that_agree_to_the_last_bit_leave_some_room() -> None:
    calibration = calibrate([2.0] * 8, [1.0] * 8, 0.5)
    assert calibration.threshold is not None
    assert 2.0 < calibration.threshold < 2.1
    assert calibration.p_value(2.2) < 0.01


@pytest.mark.parametrize(
    ("scores", "rate", "named"),
    [
        ([1.0], 0.05, r"held-out scores \[1.0\]: a threshold needs 2"),
        ([1.0, float("nan")], 0.05, "all finite"),
        ([1.0, 2.0], 0.0, "false_alarm_rate is 0.0"),
        ([1.0, 2.0], 1.0, "false_alarm_rate is 1.0"),
    ],
)
def test_mistakes(scores: list[float], rate: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        calibrate(scores, scores, 0.0, rate)
