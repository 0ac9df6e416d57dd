"""Gaussians of patches, shared over positions or one per position, for anomaly maps.

One per position: PaDiM (Defard et al., arXiv 2011.08785, section III.B). Ours: shared ones, how the support decides
between the two, and that a position also sees its eight neighbours.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.validation import held_out_folds

MIN_SQUARED = 1e-12  # the root has no gradient at 0
MAX_LOCAL_BYTES = 2**28  # of the factors of all positions, above which `auto` does not try

Spatial = Literal["shared", "local", "auto"]


class PatchGaussian(nn.Module):
    """A Gaussian of the patches of a feature map: one for all positions, or one for each.

    Aligned objects want one per position (PaDiM, section III.B), others one that is shared. `auto` asks the support:
    whichever makes held-out images more likely. Ours: that choice, and that a position also sees its eight neighbours,
    since a few images are too few for a covariance.

    Args:
        spatial: `shared`, `local`, or `auto`.
    """

    def __init__(self, spatial: Spatial = "auto") -> None:
        super().__init__()
        self.spatial = spatial
        self.gaussian = Gaussian()

    @property
    def is_local(self) -> bool:
        """Whether every position has a Gaussian of its own; False before `fit`."""
        return self.gaussian.mean.dim() > 1

    @torch.no_grad()
    def fit(self, feature: Float[Tensor, "n c h w"], instance: Int[Tensor, " n"]) -> None:
        """Estimates the Gaussian or Gaussians.

        Args:
            feature: of the views of the support.
            instance: the image that a view stems from. `shared` takes all views, `local` the first of each image: in
                the other ones the object lies elsewhere.
        """
        spatial = self._likelier(feature, instance) if self.spatial == "auto" else self.spatial
        if spatial == "local":
            self.gaussian.fit(_with_neighbours(feature[first_views(instance)]))
        else:
            self.gaussian.fit(feature.movedim(1, 3).flatten(0, 2))

    def forward(self, feature: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        """Mahalanobis distance (the root of the squared one) of every patch."""
        patches = feature.movedim(1, 3)
        squared: Tensor = self.gaussian(patches.flatten(1, 2) if self.is_local else patches.flatten(0, 2))
        return squared.clamp(min=MIN_SQUARED).sqrt().view(patches.shape[:3])

    def _likelier(self, feature: Tensor, instance: Tensor) -> Literal["shared", "local"]:
        """By the mean negative log-likelihood of held-out images, each seen once and as it is."""
        num_positions, length = feature[0, 0].numel(), feature.shape[1]
        folds = held_out_folds(instance, max_folds=4)
        if len(torch.unique(instance)) == 1 or not folds or 4 * num_positions * length**2 > MAX_LOCAL_BYTES:
            return "shared"
        first = first_views(instance)
        surprise = {"shared": 0.0, "local": 0.0}
        for held_out in folds:
            for spatial in surprise:
                candidate = PatchGaussian(spatial).to(feature.device)  # type: ignore[arg-type] # a key of the two
                candidate.fit(feature[~held_out], instance[~held_out])
                distance = candidate(feature[first & held_out])
                log_determinant = 2 * candidate.gaussian.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1).mean()
                surprise[spatial] += float(distance.square().mean() + log_determinant)
        return "local" if surprise["local"] < surprise["shared"] else "shared"


def first_views(instance: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """True for the first view of every image, which is the image as it is.

    Example:
        >>> first_views(torch.tensor([0, 0, 1, 1]))
        tensor([ True, False,  True, False])
    """
    seen = instance[:, None] == instance
    return ~seen.tril(diagonal=-1).any(dim=1)


def _with_neighbours(feature: Float[Tensor, "n c h w"]) -> Float[Tensor, "m p c"]:
    """Every position's vectors and those around it: m = 9 n samples of p positions."""
    padded = F.pad(feature, (1, 1, 1, 1), mode="replicate")
    h, w = feature.shape[2:]
    shifted = [padded[:, :, y : y + h, x : x + w] for y in range(3) for x in range(3)]
    return torch.cat(shifted).flatten(2).mT
