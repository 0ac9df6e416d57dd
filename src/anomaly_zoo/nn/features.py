"""From feature maps to patches, and from patch distances back to a map of the image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


def patch_grid(features: list[Tensor], neighbourhood: int = 1) -> Float[Tensor, "b c y x"]:
    """Joins stages into one grid of patch features.

    Every stage is scaled to unit length at each position (ours: no stage outvotes another, and contrast matters less),
    averaged over `neighbourhood` x `neighbourhood` positions, resized to the finest stage and concatenated
    (PatchCore, Roth et al., CVPR 2022, section 3.1).

    Args:
        features: one `b c h w` map per stage, finest first.
        neighbourhood: odd side of the averaging window; 1 leaves the features as they are.
    """
    size = features[0].shape[-2:]
    features = [F.normalize(feature, dim=1) for feature in features]
    if neighbourhood > 1:
        features = [
            F.avg_pool2d(feature, neighbourhood, stride=1, padding=neighbourhood // 2, count_include_pad=False)
            for feature in features
        ]
    return torch.cat([F.interpolate(feature, size, mode="bilinear") for feature in features], dim=1)


def to_patches(grid: Float[Tensor, "b c y x"]) -> Float[Tensor, "p c"]:
    """One row per patch, images after each other, row-major."""
    return grid.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def to_image(distance: Float[Tensor, "b y x"], size: tuple[int, int], sigma: float = 4.0) -> Float[Tensor, "b h w"]:
    """Resizes a grid of distances to the image and smooths it.

    Args:
        distance: one value per patch.
        size: height and width of the image in pixels.
        sigma: standard deviation of the Gaussian in pixels of the image (4, as PatchCore and PaDiM).
    """
    anomaly_map = F.interpolate(distance[:, None], size, mode="bilinear")
    radius = min(round(3 * sigma), min(size) - 1)  # reflection cannot reach further than the image
    length = 2 * radius + 1
    smooth: Tensor = gaussian_blur(gaussian_blur(anomaly_map, [length, 1], [sigma]), [1, length], [sigma])  # separable
    return smooth[:, 0]
