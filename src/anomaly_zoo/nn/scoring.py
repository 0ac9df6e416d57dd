"""From distances to an anomaly map and an image score: the same units and the same combination for every method.

Ours. The distances of a method and of the memory beside it, each in any unit, become numbers that can be added, by
nothing but support images that were held out.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from anomaly_zoo.types import Distances, Prediction

MIN_UNIT = 1e-6
NUM_HIGHEST = 3
MEDIAN_SHARE = 0.5

Pooling = Literal["peak", "maximum"]


class Scorer(nn.Module):
    """Divides every distance by its unit, and lets every group of distances count equally.

        map    = mean over the groups of the mean of their patch and detail distances
        score  = mean over the groups of (peak of the mean patch distance, and the mean image distance)

    A group is what one idea measures: a method's own distances, and those of the memory beside it. The unit of a
    distance is its mean over held-out support images; the peak (or `maximum`, as in PatchCore) has such a unit as well.
    """

    unit: Tensor
    peak_unit: Tensor

    def __init__(self, pooling: Pooling = "peak") -> None:
        super().__init__()
        self.pool = peak if pooling == "peak" else maximum
        self.register_buffer("unit", torch.empty(0))
        self.register_buffer("peak_unit", torch.empty(0))

    def fit(self, groups: Sequence[Distances]) -> None:
        """Measures the units on the distances of images that nothing was fitted to.

        Raises:
            ValueError: there is nothing that gives a map, or nothing that gives an image score.
        """
        if not any(group.patch or group.detail for group in groups):
            raise ValueError("The method measures no patch: without a memory there is no map. Set memory=true.")
        if not any(group.patch or group.image for group in groups):
            raise ValueError("The method measures details alone: without a memory there is no image score.")
        self.unit = torch.stack([d.mean() for group in groups for d in group.all()]).clamp(min=MIN_UNIT)
        peaks = [self.pool(mean_map(group.patch)).mean() if group.patch else 1.0 for group in self._in_units(groups)]
        self.peak_unit = self.unit.new_tensor([float(value) for value in peaks]).clamp(min=MIN_UNIT)

    def forward(self, groups: Sequence[Distances], size: tuple[int, int]) -> Prediction:
        """Map, of this height and width in pixels, and image score."""
        if not self.unit.numel():
            raise RuntimeError("The scorer has no units: fit it on held-out support images first.")
        in_units = self._in_units(groups)
        maps = [mean_map([*group.patch, *group.detail]) for group in in_units if group.patch or group.detail]
        scores = []
        for group, peak_unit in zip(in_units, self.peak_unit, strict=True):
            parts = [self.pool(mean_map(group.patch)) / peak_unit] if group.patch else []
            parts += [torch.stack(list(group.image)).mean(dim=0)] if group.image else []
            scores += [torch.stack(parts).mean(dim=0)] if parts else []
        return Prediction(to_image(mean_map(maps), size), torch.stack(scores).mean(dim=0))

    def _in_units(self, groups: Sequence[Distances]) -> list[Distances]:
        unit = iter(self.unit)
        return [Distances(*([d / next(unit) for d in kind] for kind in group)) for group in groups]


def mean_map(distances: Sequence[Float[Tensor, "b _ _"]]) -> Float[Tensor, "b y x"]:
    """The mean of maps of distances, on the finest of their grids.

    >>> mean_map([torch.full((1, 1, 2), 3.0), torch.full((1, 1, 1), 4.0)])
    tensor([[[3.5000, 3.5000]]])
    """
    size = max((distance.shape[1:] for distance in distances), key=lambda grid: grid[0] * grid[1])
    resized = [
        distance if distance.shape[1:] == size else F.interpolate(distance[:, None], size, mode="bilinear")[:, 0]
        for distance in distances
    ]
    return torch.stack(resized).mean(dim=0)


def peak(distance: Float[Tensor, "b y x"]) -> Float[Tensor, " b"]:
    """How far the highest patches of an image stand out: the mean of the three highest less half of the median.

    Ours. The largest distance alone follows what raises all distances, such as new light; less all of the median would
    miss defects that cover most of the image.

    >>> peak(torch.tensor([[[0.0, 2.0, 9.0], [2.0, 2.0, 6.0], [1.0, 2.0, 3.0]]]))
    tensor([5.])
    """
    patches = distance.flatten(1)
    highest = patches.topk(patches.shape[1] // 2 + 1, dim=1).values
    return highest[:, :NUM_HIGHEST].mean(dim=1) - MEDIAN_SHARE * highest[:, -1]


def maximum(distance: Float[Tensor, "b y x"]) -> Float[Tensor, " b"]:
    """The largest distance of an image (PatchCore, section 3.3, without its reweighting).

    >>> maximum(torch.tensor([[[0.0, 2.0], [9.0, 2.0]]]))
    tensor([9.])
    """
    return distance.flatten(1).amax(dim=1)


def as_if_new(score: Float[Tensor, " n"], is_new: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Scores of n normal images, where a network was trained on those that are not new, and sees them as too normal.

    Ours. These are scaled so that their mean is that of the m new ones. Then all are spread out around it: to the
    larger of the spreads before and after, and by sqrt((1 + 1/m) / (1 + 1/n)), since no more than m tell the mean.

    >>> as_if_new(torch.tensor([1.0, 1.0, 2.0, 4.0]), torch.tensor([False, False, True, True]))
    tensor([3.0000, 3.0000, 1.1026, 4.8974])
    """
    is_new = is_new.to(score.device)
    if is_new.all():
        return score
    mean = score[is_new].mean()
    scaled = torch.where(is_new, score, score * mean / score[~is_new].mean())
    num_new, num = int(is_new.sum()), len(score)
    wider = torch.maximum(score.std(), scaled.std()) / scaled.std().clamp(min=torch.finfo(score.dtype).tiny)
    spread: Tensor = mean + (scaled - mean) * wider * math.sqrt((1 + 1 / num_new) / (1 + 1 / num))
    return spread


def to_image(distance: Float[Tensor, "b y x"], size: tuple[int, int], sigma: float = 2.0) -> Float[Tensor, "b h w"]:
    """Resizes a grid of distances to the image and smooths it, by 2 pixels (ours; PatchCore and PaDiM take 4)."""
    anomaly_map = F.interpolate(distance[:, None], size, mode="bilinear")
    radius = min(round(3 * sigma), min(size) - 1)  # reflection cannot reach further than the image
    length = 2 * radius + 1
    smooth: Tensor = gaussian_blur(gaussian_blur(anomaly_map, [length, 1], [sigma]), [1, length], [sigma])  # separable
    return smooth[:, 0]
