"""AUROC, average precision and F1-max of unbounded scores, exactly.

Unlike the metrics of torchmetrics with their default arguments, nothing here pushes scores outside [0, 1]
through a sigmoid, which merges large scores into one tie; only the order of the scores counts. Ties are handled as
in scikit-learn (``roc_auc_score``, ``average_precision_score``, ``precision_recall_curve``).

Sources: Fawcett, "An introduction to ROC analysis", 2006, sec. 7 (AUROC as the probability of a correct
ranking); scikit-learn's user guide, "Precision, recall and F-measures" (AP as a sum without interpolation); Jeong et
al., "WinCLIP", CVPR 2023 (F1-max as a metric of anomaly detection).
"""

from typing import Any

from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torchmetrics import Metric

from anomaly_zoo.metrics._counts import Counts, check_pair, to_array, to_arrays, to_scalar


def auroc(score: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> Float64[Tensor, ""]:
    """Area under the receiver operating characteristic curve.

    ``P(anomalous score > normal score) + P(anomalous score = normal score) / 2`` over all pairs.

    Args:
        score: higher is more anomalous; finite, without any further range.
        label: True where anomalous.

    Returns:
        A scalar in [0, 1], on the CPU; 0.5 is chance.

    Raises:
        ValueError: If shapes or types do not fit, a score is not finite, or no score is normal or none anomalous.

    Example:
        >>> import torch
        >>> auroc(torch.tensor([61.0, 63.0, 62.0, 64.0]), torch.tensor([False, False, True, True]))
        tensor(0.7500, dtype=torch.float64)
    """
    return to_scalar(_counts(score, label).auroc())


def average_precision(score: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> Float64[Tensor, ""]:
    """Average precision: the area under the precision-recall curve as a step function.

    ``sum_t (recall_t - recall_{t-1}) precision_t`` over the distinct scores t in descending order.

    Args:
        score: higher is more anomalous; finite, without any further range.
        label: True where anomalous.

    Returns:
        A scalar in (0, 1], on the CPU; the ratio of anomalous labels is chance.

    Raises:
        ValueError: If shapes or types do not fit, a score is not finite, or no score is normal or none anomalous.

    Example:
        >>> import torch
        >>> average_precision(torch.tensor([61.0, 63.0, 62.0, 64.0]), torch.tensor([False, False, True, True]))
        tensor(0.8333, dtype=torch.float64)
    """
    return to_scalar(_counts(score, label).average_precision())


def f1_max(score: Float[Tensor, " n"], label: Bool[Tensor, " n"]) -> Float64[Tensor, ""]:
    """F1 score at the best threshold: ``max_t 2 TP_t / (2 TP_t + FP_t + FN_t)``.

    The threshold is chosen with the labels, so this is an upper bound on what any fixed threshold reaches.

    Args:
        score: higher is more anomalous; finite, without any further range.
        label: True where anomalous.

    Returns:
        A scalar in (0, 1], on the CPU.

    Raises:
        ValueError: If shapes or types do not fit, a score is not finite, or no score is normal or none anomalous.

    Example:
        >>> import torch
        >>> f1_max(torch.tensor([61.0, 63.0, 62.0, 64.0]), torch.tensor([False, False, True, True]))
        tensor(0.8000, dtype=torch.float64)
    """
    return to_scalar(_counts(score, label).f1_max())


def _counts(score: Tensor, label: Tensor) -> Counts:
    check_pair(score, label, num_dims=1)
    return Counts.of([to_array(score)], [to_array(label)])


class _RankingMetric(Metric):
    """Collects scores and labels; subclasses say what to compute from their counts."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    score: list[Tensor]
    label: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("score", default=[], dist_reduce_fx="cat")
        self.add_state("label", default=[], dist_reduce_fx="cat")

    def update(self, score: Float[Tensor, " b"], label: Bool[Tensor, " b"]) -> None:
        """Add scores, and labels that are True where anomalous."""
        check_pair(score, label, num_dims=1)
        self.score.append(score.detach())
        self.label.append(label)

    def _counts(self) -> Counts:
        return Counts.of(to_arrays(self.score), to_arrays(self.label))


class AUROC(_RankingMetric):
    """Area under the receiver operating characteristic curve over everything seen; see `auroc`.

    Example:
        >>> import torch
        >>> metric = AUROC()
        >>> metric.update(torch.tensor([61.0, 63.0]), torch.tensor([False, False]))
        >>> metric.update(torch.tensor([62.0, 64.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    def compute(self) -> Float64[Tensor, ""]:
        """The metric over all scores of all processes."""
        return to_scalar(self._counts().auroc())


class AveragePrecision(_RankingMetric):
    """Average precision over everything seen; see `average_precision`.

    Example:
        >>> import torch
        >>> metric = AveragePrecision()
        >>> metric.update(torch.tensor([61.0, 63.0]), torch.tensor([False, False]))
        >>> metric.update(torch.tensor([62.0, 64.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(0.8333, dtype=torch.float64)
    """

    def compute(self) -> Float64[Tensor, ""]:
        """The metric over all scores of all processes."""
        return to_scalar(self._counts().average_precision())


class F1Max(_RankingMetric):
    """F1 score at the best threshold over everything seen; see `f1_max`.

    Example:
        >>> import torch
        >>> metric = F1Max()
        >>> metric.update(torch.tensor([61.0, 63.0]), torch.tensor([False, False]))
        >>> metric.update(torch.tensor([62.0, 64.0]), torch.tensor([True, True]))
        >>> metric.compute()
        tensor(0.8000, dtype=torch.float64)
    """

    def compute(self) -> Float64[Tensor, ""]:
        """The metric over all scores of all processes."""
        return to_scalar(self._counts().f1_max())
