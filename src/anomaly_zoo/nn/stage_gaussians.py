"""The Gaussians of a backbone's stages: of the stages averaged over their positions, and of the patches of the finest.

Averaged stages: Rippel et al. (arXiv 2005.14140). Ours: Gaussians of patches in two forms, at unit length, where
contrast matters less, and as they are, where the length of a feature shows faint defects.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import nn

from anomaly_zoo.nn.features import unit_patches
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.patch_gaussian import MIN_SQUARED, PatchGaussian, Spatial

NUM_FINE_STAGES = 2

Stages = list[Float[torch.Tensor, "b _ _ _"]]
Levels = list[Float[torch.Tensor, " b"]]
Maps = list[Float[torch.Tensor, "b _ _"]]


class StageGaussians(nn.Module):
    """Mahalanobis distances of averaged stages and of patches to Gaussians of normal ones.

    Args:
        num_stages: feature maps per image, finest first.
        spatial: see `PatchGaussian`.
    """

    def __init__(self, num_stages: int, spatial: Spatial) -> None:
        super().__init__()
        self.num_stages = num_stages
        num_forms = 2 * min(NUM_FINE_STAGES, num_stages)
        pooled = nn.ModuleList(Gaussian() for _ in range(num_stages))
        patches = nn.ModuleList(PatchGaussian(spatial) for _ in range(num_forms))
        self.pooled: Sequence[Gaussian] = pooled  # type: ignore[assignment] # so that its elements have a type
        self.patches: Sequence[PatchGaussian] = patches  # type: ignore[assignment]

    def fit(self, stages: Stages, instance: Int[torch.Tensor, " n"]) -> None:
        """Estimates all Gaussians from the views of the support; `instance` is the image that a view stems from."""
        for gaussian, level in zip(self.pooled, _average(stages), strict=True):
            gaussian.fit(level)
        for patch_gaussian, patches in zip(self.patches, _fine(stages), strict=True):
            patch_gaussian.fit(patches, instance)

    def forward(self, stages: Stages) -> tuple[Levels, Maps]:
        """Distances (not squared) of every averaged stage; maps of the patches at unit length, then as they are."""
        pooled = [
            gaussian(level).clamp(min=MIN_SQUARED).sqrt()
            for gaussian, level in zip(self.pooled, _average(stages), strict=True)
        ]
        return pooled, [gaussian(patches) for gaussian, patches in zip(self.patches, _fine(stages), strict=True)]

    def unfitted(self) -> "StageGaussians":
        """Gaussians to fit to a part of the support: shared or local as these are, which takes the whole to decide."""
        copy = StageGaussians(self.num_stages, "shared")
        for mine, other in zip(self.patches, copy.patches, strict=True):
            other.spatial = "local" if mine.is_local else "shared"
        return copy.to(self.pooled[0].mean.device)

    def forget_covariances(self) -> None:
        """Makes all distances Euclidean ones to the means."""
        for part in self.modules():
            if isinstance(part, Gaussian) and part.cholesky.numel():
                part.cholesky = torch.eye(part.mean.shape[-1]).to(part.mean).expand_as(part.cholesky).contiguous()


def _average(stages: Stages) -> list[Float[torch.Tensor, "b _"]]:
    return [stage.mean(dim=(2, 3)) for stage in stages]


def _fine(stages: Stages) -> Stages:
    finest = stages[:NUM_FINE_STAGES]
    return unit_patches(finest) + finest
