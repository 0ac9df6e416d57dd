"""What flows through the package: a `Batch` into a method, a `Prediction` out of it.

Axis legend of shape annotations; other letters are told where they stand:

    b  images of a batch        h w  height and width in pixels of the (resized) image
    n  images, or samples       c    channels of a feature map
    y x  rows and columns of a grid of patches
    p  patches                  d    length of a feature vector
    k  support images (shots)   v    views of one image
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Stages = list[Float[Tensor, "b _ _ _"]]
"""Feature maps of the same images, finest first; a stage that was averaged over its positions is `b c 1 1`."""


class Batch(NamedTuple):
    """Images with what is known about them."""

    image: Float[Tensor, "b 3 h w"]  # RGB in [0, 1]; the backbone normalises, so that data never depends on a model
    mask: Bool[Tensor, "b _ _"]  # True where anomalous, in the size in which maps are evaluated; all False if unknown
    label: Bool[Tensor, " b"]  # True for an anomalous image
    path: list[str]  # of every image; its parent folder names the defect in the test split
    region: Bool[Tensor, "b h w"] | None = None  # where scores count; None: everywhere


class Distances(NamedTuple):
    """How far images are from normal, by one idea: higher is farther, in any unit."""

    patch: Sequence[Float[Tensor, "b _ _"]] = ()  # for map and image score; one per stage, each on its own grid
    detail: Sequence[Float[Tensor, "b _ _"]] = ()  # for the map alone: sharp, but a poor ranking of images
    image: Sequence[Float[Tensor, " b"]] = ()  # for the image score alone

    @classmethod
    def join(cls, parts: Sequence["Distances"]) -> "Distances":
        """The distances of several batches as those of one."""
        kinds = (zip(*kind, strict=True) for kind in zip(*parts, strict=True))
        return cls(*([torch.cat(distance) for distance in kind] for kind in kinds))

    def of(self, images: Bool[Tensor, " b"]) -> "Distances":
        """The distances of some of the images."""
        return Distances(*([distance[images.to(distance.device)] for distance in kind] for kind in self))

    def all(self) -> list[Tensor]:
        """Every distance, in one list."""
        return [*self.patch, *self.detail, *self.image]


class Prediction(NamedTuple):
    """Scores of a batch of images: higher is more anomalous, unbounded, without a unit."""

    anomaly_map: Float[Tensor, "b h w"]
    image_score: Float[Tensor, " b"]
