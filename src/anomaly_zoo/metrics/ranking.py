"""AUROC, average precision and F1-max of unbounded scores, exactly, by one sort.

A ranking metric needs to know, for every *anomalous* score, how many normal scores are higher and how many are not
lower. These two counts bound a tie exactly, so that nothing is binned, and no score goes through a sigmoid, as
torchmetrics does with scores outside [0, 1]. Ties count as in scikit-learn.

Sources: Fawcett, "An introduction to ROC analysis", 2006, sec. 7; scikit-learn's user guide, "Precision, recall and
F-measures"; Jeong et al., "WinCLIP", CVPR 2023 (F1-max).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Where the anomalous scores, in ascending order, stand among all scores."""

    num_normal: int
    order: Int64[np.ndarray, " a"]  # positions that sort the anomalous scores
    higher: Int64[np.ndarray, " a"]  # normal scores above each: false positives just before the threshold reaches it
    not_lower: Int64[np.ndarray, " a"]  # normal scores at or above it: false positives when it is the threshold
    detected: Int64[np.ndarray, " a"]  # anomalous scores at or above it: true positives when it is the threshold

    @classmethod
    def of(cls, scores: Sequence[Float[np.ndarray, "..."]], labels: Sequence[Bool[np.ndarray, "..."]]) -> "Counts":
        """Counts over all arrays of ``scores`` together; each has its array in ``labels``, True where anomalous.

        Raises:
            ValueError: there is no normal or no anomalous score, or a score is NaN or infinite.
        """
        normal, anomalous = _select(scores, labels, anomalous=False), _select(scores, labels, anomalous=True)
        if not normal.size or not anomalous.size:
            sizes = f"{normal.size} normal and {anomalous.size} anomalous"
            raise ValueError(f"needs at least one normal and one anomalous score, got {sizes}")
        normal.sort()
        order = np.argsort(anomalous)
        anomalous = anomalous[order]
        for value in (normal[0], normal[-1], anomalous[0], anomalous[-1]):  # NaN sorts last
            if not np.isfinite(value):
                raise ValueError(f"scores must be finite, got {value}")
        return cls(
            num_normal=normal.size,
            order=order,
            higher=normal.size - np.searchsorted(normal, anomalous, side="right"),
            not_lower=normal.size - np.searchsorted(normal, anomalous, side="left"),
            detected=anomalous.size - np.searchsorted(anomalous, anomalous, side="left"),
        )

    def auroc(self) -> float:
        """Area under the receiver operating characteristic curve."""
        lost_half_pairs = int(self.higher.sum()) + int(self.not_lower.sum())
        return 1 - lost_half_pairs / (2 * self.num_normal * self.higher.size)

    def average_precision(self) -> float:
        """Area under the precision-recall curve as a step function: `sum_t (recall_t - recall_{t-1}) precision_t`."""
        return float(np.mean(self.detected / (self.detected + self.not_lower)))

    def f1_max(self) -> float:
        """Highest F1 over all thresholds: an upper bound of what a fixed threshold reaches."""
        return float(np.max(2 * self.detected / (self.detected + self.not_lower + self.detected.size)))

    def aupro(self, weight: Float[np.ndarray, " a"], fpr_limit: float) -> float:
        """Area under the per-region overlap curve up to ``fpr_limit``, divided by ``fpr_limit``.

        An anomalous score adds its weight to the overlap while the false positives grow from ``higher`` to
        ``not_lower``, linearly. Left of the limit this piece of the curve and what follows has the area
        ``limit - (higher + not_lower) / 2``, or that of a triangle if the limit cuts the piece.
        """
        limit = fpr_limit * self.num_normal
        first = np.count_nonzero(self.higher >= limit)
        higher, not_lower = self.higher[first:], self.not_lower[first:]
        area = limit - (higher + not_lower) / 2
        cut = not_lower > limit
        area[cut] = (limit - higher[cut]) ** 2 / (2 * (not_lower[cut] - higher[cut]))
        share = np.dot(weight[self.order[first:]], area) / (limit * weight.sum())
        return min(float(share), 1.0)  # rounding can carry a perfect map just beyond 1


def auroc(score: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> Float64[Tensor, ""]:
    """`P(anomalous score > normal score) + P(anomalous score = normal score) / 2` over all pairs of finite scores.

    Raises:
        ValueError: shapes or types do not fit, a score is not finite, or no score is normal or none anomalous.

    >>> auroc(torch.tensor([61.0, 63.0, 62.0, 64.0]), torch.tensor([False, False, True, True]))
    tensor(0.7500, dtype=torch.float64)
    """
    check_pair(score, label, num_dims=1)
    return torch.tensor(Counts.of([to_array(score)], [to_array(label)]).auroc(), dtype=torch.float64)


def _select(
    scores: Sequence[Float[np.ndarray, "..."]], labels: Sequence[Bool[np.ndarray, "..."]], anomalous: bool
) -> Float[np.ndarray, " n"]:
    """Copy of the anomalous or of the normal scores, filled array by array so that nothing is held twice."""
    selected = np.empty(
        sum(int(np.count_nonzero(label == anomalous)) for label in labels),
        dtype=np.result_type(np.float32, *{score.dtype for score in scores}),
    )
    end = 0
    for score, label in zip(scores, labels, strict=True):
        part = score[label == anomalous]
        selected[end : end + part.size] = part
        end += part.size
    return selected


def to_array(tensor: Shaped[Tensor, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """NumPy view of a tensor; a copy only if it lies on a device or is a float narrower than 32 bits."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()


def to_images(state: Tensor | list[Tensor]) -> list[Shaped[np.ndarray, "_ _"]]:
    """NumPy views of the images in a list state, which torchmetrics turns into one tensor when it synchronises."""
    return [image for batch in (state if isinstance(state, list) else [state]) for image in to_array(batch)]


def check_pair(score: Tensor, label: Tensor, num_dims: int) -> None:
    """Raises a ValueError unless these are a float and a bool tensor of one shape with so many dimensions."""
    if score.shape != label.shape or score.ndim != num_dims:
        shapes = f"{tuple(score.shape)} and {tuple(label.shape)}"
        raise ValueError(f"scores and labels must have one shape of {num_dims} dimension(s), got {shapes}")
    if not score.is_floating_point():
        raise ValueError(f"scores must be floating point, got {score.dtype}")
    if label.dtype != torch.bool:
        raise ValueError(f"labels must be bool, got {label.dtype}")
