"""A threshold and p-values from the scores of a few held-out normal images.

With n held-out scores of mean m and standard deviation s, taken as draws of a normal distribution, the next one
exceeds `m + t s sqrt(1 + 1/n)` with probability a, where t is the quantile 1 - a of Student's distribution with n - 1
degrees of freedom: the prediction interval for one more observation, which knows how little n draws say. The rank alone
(conformal p-values; Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005) assumes nothing but that
the images are exchangeable, and can never fall below 1 / (n + 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

_MIN_SCORES = 2
_NEEDED = 4  # so many independent support images make a threshold more than a guess; of one, none is made
_AGREE = 0.01  # relative spread of held-out scores below which they are those of one part; see docs/deploy.md
_TABLE_P = np.concatenate([np.linspace(0.999, 0.1, 64, endpoint=False), np.geomspace(0.1, 1e-6, 192)])
_LEAST_SPREAD_RATIO = 1e-3  # of the mean: scores that agree better than that say nothing about others


@dataclass(frozen=True)
class Calibration:
    """Where normal images end, learned from the support alone."""

    false_alarm_rate: float  # the share of normal images that may count as anomalous, as asked for
    threshold: float | None  # image score above which an image counts as anomalous; None: nothing is decided
    map_threshold: float  # value of the anomaly map that as many normal images exceed somewhere
    map_level: float  # mean value of the anomaly maps of held-out normal images
    image_scores: list[float]  # of the held-out normal images, rising
    map_peaks: list[float]  # the largest values of their anomaly maps, rising
    p_scores: list[float]  # image scores, rising, and ...
    p_values: list[float]  # ... the p-value of each, falling; between two of them it is interpolated

    def at(self, threshold: float | None, false_alarm_rate: float | None) -> "Calibration":
        """The same with another threshold of the image score, or for another rate; ValueError if there is none."""
        if threshold is not None:
            return replace(self, threshold=threshold)
        if false_alarm_rate is None:
            return self
        if self.threshold is None:
            raise ValueError("one independent support image promises no false-alarm rate: pass --threshold instead.")
        return calibrate(self.image_scores, self.map_peaks, self.map_level, false_alarm_rate)

    def p_value(self, score: float) -> float:
        """The share of normal images that score as high or higher, by the fitted tail; at least 1e-6."""
        return float(np.interp(score, self.p_scores, self.p_values))

    def conformal_p_value(self, score: float) -> float:
        """The same by rank alone: (1 + how many held-out scores are as high) / (n + 1)."""
        return (1 + sum(other >= score for other in self.image_scores)) / (len(self.image_scores) + 1)


def calibrate(
    image_scores: Sequence[float], map_peaks: Sequence[float], map_level: float, false_alarm_rate: float = 0.05
) -> Calibration:
    """Fits both tails, to the numbers of at least two held-out normal images (or views); see `Calibration`."""
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate is {false_alarm_rate}: choose a share between 0 and 1, such as 0.05")
    if len(image_scores) < _MIN_SCORES or not np.isfinite([*image_scores, *map_peaks, map_level]).all():
        raise ValueError(f"held-out scores {list(image_scores)}: a threshold needs {_MIN_SCORES} or more, all finite")
    p_values = np.unique([*_TABLE_P, false_alarm_rate])[::-1]  # so that p < rate exactly where score > threshold
    return Calibration(
        false_alarm_rate=false_alarm_rate,
        threshold=tail_quantile(image_scores, false_alarm_rate),
        map_threshold=tail_quantile(map_peaks, false_alarm_rate),
        map_level=map_level,
        image_scores=sorted(image_scores),
        map_peaks=sorted(map_peaks),
        p_scores=[tail_quantile(image_scores, p) for p in p_values],
        p_values=p_values.tolist(),
    )


def tail_quantile(scores: Sequence[float], probability: float) -> float:
    """The value that one more score exceeds with the given probability.

    >>> round(tail_quantile([1.0, 2.0, 3.0], 0.05), 3)
    5.372
    """
    from scipy import stats  # late: onnxruntime does without it, as long as nobody asks for another rate

    mean = float(np.mean(scores))
    deviation = max(float(np.std(scores, ddof=1)), _LEAST_SPREAD_RATIO * abs(mean), 1e-12)
    spread = deviation * math.sqrt(1 + 1 / len(scores))  # of the difference between one more score and the mean
    return float(mean + stats.t.isf(probability, len(scores) - 1) * spread)


def doubts(names: Sequence[str], first: Sequence[int], held_out_scores: Sequence[float]) -> tuple[str, ...]:
    """Why a threshold cannot keep its promise, and what to do; nothing if it can. For `first` see `same_part`."""
    copies = [f"{names[place]} like {names[other]}" for place, other in enumerate(first) if place != other]
    number, found = len(names) - len(copies), []
    if copies:
        shown = ", ".join(copies[:2]) + (" ..." if len(copies) > 2 else "")
        alike = f"{len(copies)} of {len(names)} support images look like others ({shown}), as of one part"
        found.append(f"{alike}; where they are too much alike, new parts count as anomalous: adapt to other parts.")
    spread = float(np.std(held_out_scores, ddof=1)) / max(abs(float(np.mean(held_out_scores))), 1e-12)
    if not copies and len(names) > 1 and spread < _AGREE:
        agree = f"held-out scores nearly agree (within {spread:.1%})"
        found.append(f"{agree}, as those of one part do: adapt to other parts.")
    if number < _NEEDED:
        has = f"the support has {number} independent image{'s' * (number > 1)}"
        no_decision = "there is a score and no decision, unless you pass --threshold"
        guess = "the threshold is a guess" if number > 1 else no_decision
        found.append(f"{has}, so that {guess}: adapt to {_NEEDED} or more, better 8, of different parts.")
    return tuple(found)
