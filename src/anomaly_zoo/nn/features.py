"""From feature maps to patches, and from patch distances back to a map of the image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

NUM_HIGHEST = 3
MEDIAN_SHARE = 0.5


def unit_patches(features: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _ _ _"]]:
    """Scales every patch of every stage to unit length (ours: contrast matters less, and no stage outvotes another)."""
    return [F.normalize(feature, dim=1) for feature in features]


def join(distances: list[Float[Tensor, "b _ _"]]) -> Float[Tensor, "b y x"]:
    """The sum of the stages' distances, on the grid of the first stage, which is the finest.

    Example:
        >>> join([torch.full((1, 2, 2), 3.0), torch.full((1, 1, 1), 4.0)])
        tensor([[[7., 7.],
                 [7., 7.]]])
    """
    size = distances[0].shape[1:]
    resized = [F.interpolate(distance[:, None], size, mode="bilinear") for distance in distances]
    return torch.cat(resized, dim=1).sum(dim=1)


def peak(distance: Float[Tensor, "b y x"]) -> Float[Tensor, " b"]:
    """How far the highest patches of an image stand out: the mean of the three highest less half of the median.

    Ours. The largest distance alone follows whatever raises all distances of an image, such as light that the support
    has not seen; subtracting all of the median would miss defects that cover most of the image.

    Example:
        >>> peak(torch.tensor([[[0.0, 2.0, 9.0], [2.0, 2.0, 6.0], [1.0, 2.0, 3.0]]]))
        tensor([5.])
    """
    patches = distance.flatten(1)
    highest = patches.topk(patches.shape[1] // 2 + 1, dim=1).values
    return highest[:, :NUM_HIGHEST].mean(dim=1) - MEDIAN_SHARE * highest[:, -1]


def to_image(distance: Float[Tensor, "b y x"], size: tuple[int, int], sigma: float = 2.0) -> Float[Tensor, "b h w"]:
    """Resizes a grid of distances to the image and smooths it.

    Args:
        distance: one value per patch.
        size: height and width of the image in pixels.
        sigma: standard deviation of the Gaussian in pixels of the image (ours; PatchCore and PaDiM take 4).
    """
    anomaly_map = F.interpolate(distance[:, None], size, mode="bilinear")
    radius = min(round(3 * sigma), min(size) - 1)  # reflection cannot reach further than the image
    length = 2 * radius + 1
    smooth: Tensor = gaussian_blur(gaussian_blur(anomaly_map, [length, 1], [sigma]), [1, length], [sigma])  # separable
    return smooth[:, 0]
