"""AUPRO: the area under the per-region overlap curve, exactly.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, sec. 5. A threshold t turns the anomaly maps
of a test split into two numbers: the share of all normal pixels with a score of at least t (false-positive rate), and
the share of a ground-truth region with such scores, averaged over all regions (per-region overlap). AUPRO is the area
under the overlap as a function of the false-positive rate from 0 to a limit L, divided by L. Regions are the
8-connected components of every image's mask; each weighs the same, however many pixels it has.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torchmetrics import Metric

from anomaly_zoo.metrics.ranking import Counts, check_pair, to_images


def aupro(
    anomaly_map: Float[Tensor, "n h w"], mask: Bool[Tensor, "n h w"], fpr_limit: float = 0.3
) -> Float64[Tensor, ""]:
    """Area under the per-region overlap curve up to a false-positive rate of ``fpr_limit``, divided by ``fpr_limit``.

    The false-positive rate is over all normal pixels of all n images: pass a whole test split, normal images included.

    Raises:
        ValueError: shapes, types or limit do not fit, a score is not finite, or no pixel is normal or none anomalous.

    >>> anomaly_map = torch.tensor([[[9.0, 9.0, 1.0], [1.0, 1.0, 3.0], [3.0, 3.0, 2.0]]])
    >>> mask = torch.tensor([[[True, True, False], [False, False, False], [False, False, True]]])
    >>> aupro(anomaly_map, mask, fpr_limit=1.0)  # the second region lies above half of the normal pixels
    tensor(0.7500, dtype=torch.float64)
    """
    metric = AUPRO(fpr_limit, sync_on_compute=False)
    metric.update(anomaly_map, mask)
    value: Tensor = metric.compute()
    return value


class AUPRO(Metric):
    """Area under the per-region overlap curve over all images seen; see `aupro`.

    Raises:
        ValueError: a limit that is not in (0, 1].
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    anomaly_map: list[Tensor]
    mask: list[Tensor]

    def __init__(self, fpr_limit: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < fpr_limit <= 1:
            raise ValueError(f"fpr_limit must be in (0, 1], got {fpr_limit}")
        self.fpr_limit = fpr_limit
        self.add_state("anomaly_map", default=[], dist_reduce_fx="cat")
        self.add_state("mask", default=[], dist_reduce_fx="cat")

    def update(self, anomaly_map: Float[Tensor, "b h w"], mask: Bool[Tensor, "b h w"]) -> None:
        """Add anomaly maps, and masks that are True where a pixel is anomalous."""
        check_pair(anomaly_map, mask, num_dims=3)
        self.anomaly_map.append(anomaly_map.detach())
        self.mask.append(mask)

    def compute(self) -> Float64[Tensor, ""]:
        """The metric over all images of all processes."""
        masks = to_images(self.mask)
        value = Counts.of(to_images(self.anomaly_map), masks).aupro(region_weights(masks), self.fpr_limit)
        return torch.tensor(value, dtype=torch.float64)


def region_weights(masks: Sequence[Bool[np.ndarray, "_ _"]]) -> Float64[np.ndarray, " a"]:
    """For each anomalous pixel, in reading order, one over the number of pixels of its 8-connected region.

    >>> region_weights([np.array([[True, False, True], [False, True, False]]), np.array([[True, False, True]])])
    array([0.33333333, 0.33333333, 0.33333333, 1.        , 1.        ])
    """
    weights = [np.empty(0)]
    for mask in masks:
        if mask.any():
            _, regions = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            region = regions[mask]
            weights.append(1 / np.bincount(region)[region])
    return np.concatenate(weights)
