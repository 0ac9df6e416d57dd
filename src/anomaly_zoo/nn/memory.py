"""A memory of normal patches, stage by stage: a sample or a coreset to build it, nearest neighbours to ask it."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.nearest import NUM_NEIGHBOURS, nearest_rows, row_distances, rows_of
from anomaly_zoo.types import Distances, Stages

MAX_CANDIDATES = 32768
MIN_WEIGHT = 1e-5  # of a row: more than rounding, less than what rows differ by


class PatchMemory(nn.Module):
    """Normal patches of every stage, and the mean distance of other patches to the `NUM_NEIGHBOURS` nearest of them.

    Ours: every stage is searched on its own grid, and patches are compared at unit length; those of the `raw` stages
    also as they are, with the rows that are the nearest at unit length. See docs/methods/frozen.md. A stage keeps
    `max_patches` or fewer: a random sample, or a `coreset` that covers all patches, as in PatchCore.

    Raises:
        ValueError: fewer than one patch.
    """

    def __init__(
        self, num_stages: int, raw: Sequence[int] = (), max_patches: int = 8192, coreset: bool = False
    ) -> None:
        super().__init__()
        if max_patches < 1:
            raise ValueError(f"{max_patches=}: a memory needs 1 or more.")
        self.num_stages = num_stages
        self.raw = list(raw)
        self.max_patches = max_patches
        self.coreset = coreset
        for stage in range(num_stages):
            self.register_buffer(f"stage{stage}", torch.empty(0, 0))
        for stage in self.raw:
            self.register_buffer(f"length{stage}", torch.empty(0))

    def fit(self, features: Stages) -> list[Int[Tensor, " _"]]:
        """Remembers patches of normal images, the same ones each time; returns each one's image number, by stage."""
        images = []
        for stage, feature in enumerate(features[: self.num_stages]):
            patches = rows_of(feature)
            limit = MAX_CANDIDATES if self.coreset else self.max_patches
            chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:limit].to(patches.device)
            if self.coreset:
                chosen = chosen[greedy_coreset(F.normalize(patches[chosen], dim=1), self.max_patches)]
            patches = patches[chosen]
            setattr(self, f"stage{stage}", F.normalize(patches, dim=1))
            if stage in self.raw:
                setattr(self, f"length{stage}", patches.norm(dim=1))
            images.append(chosen // feature[0, 0].numel())
        return images

    def without(self, held_out: Bool[Tensor, " n"], images: list[Int[Tensor, " _"]]) -> "PatchMemory":
        """The memory without the patches of some of the images that it was just fitted to; `fit` returned `images`.

        Raises:
            ValueError: nothing is left, since the memory has too few patches.
        """
        rest = copy.deepcopy(self)
        for stage, image in enumerate(images):
            kept = ~held_out.to(image.device)[image]
            if not kept.any():
                raise ValueError(
                    f"max_patches={self.max_patches}: without the held-out images nothing is left. Raise it."
                )
            setattr(rest, f"stage{stage}", getattr(self, f"stage{stage}")[kept])
            if stage in self.raw:
                setattr(rest, f"length{stage}", getattr(self, f"length{stage}")[kept])
        return rest

    def forward(self, features: Stages) -> Distances:
        """Distances of patches at unit length in all stages (`patch`), and as they are in the finest (`detail`)."""
        unit, raw = [], []
        for stage, feature in enumerate(features[: self.num_stages]):
            rows: Tensor = getattr(self, f"stage{stage}")
            if not len(rows):
                raise RuntimeError("The patch memory is empty: fit it on the support first.")
            direction, shape = rows_of(F.normalize(feature, dim=1)), (len(feature), *feature.shape[2:])
            nearest = nearest_rows(direction, rows, NUM_NEIGHBOURS + (stage in self.raw))
            distance = row_distances(direction, rows, nearest)
            unit.append(mean_of_nearest(distance).view(shape))
            if stage in self.raw:
                as_they_are = row_distances(rows_of(feature), rows * getattr(self, f"length{stage}")[:, None], nearest)
                raw.append(weighted_by_nearness(as_they_are, distance).view(shape))
        return Distances(patch=unit, detail=raw)


def mean_of_nearest(distance: Float[Tensor, "p k"]) -> Float[Tensor, " p"]:
    """Mean distance to the `NUM_NEIGHBOURS` nearest rows; k is one more, or less if a memory has no more.

    >>> mean_of_nearest(torch.tensor([[1.0, 9.0, 2.0, 3.0]]))
    tensor([2.])
    """
    if distance.shape[1] <= NUM_NEIGHBOURS:
        return distance.mean(dim=1)
    return (distance.sum(dim=1) - distance.amax(dim=1)) / NUM_NEIGHBOURS


def weighted_by_nearness(value: Float[Tensor, "p k"], distance: Float[Tensor, "p k"]) -> Float[Tensor, " p"]:
    """Mean of what belongs to the rows, each weighted by how much nearer it is than the farthest of them.

    >>> weighted_by_nearness(torch.tensor([[6.0, 5.0, 3.0]]), torch.tensor([[1.0, 4.0, 1.0]]))
    tensor([4.5000])
    """
    weight = distance.amax(dim=1, keepdim=True) - distance + MIN_WEIGHT
    return (weight * value).sum(dim=1) / weight.sum(dim=1)


def greedy_coreset(patches: Float[Tensor, "p d"], size: int, num_projected: int = 32) -> Int[Tensor, " m"]:
    """Indices of patches that cover all of them: greedy k-center (Sener and Savarese, ICLR 2018).

    Starts at the patch farthest from the mean, then takes the patch that is farthest from those taken, in a fixed
    random projection, as in PatchCore.

    >>> greedy_coreset(torch.tensor([[0.0], [0.1], [9.0]]), 2).tolist()
    [2, 0]
    """
    if size >= len(patches):
        return torch.arange(len(patches), device=patches.device)
    if patches.shape[1] > num_projected:
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(patches.shape[1], num_projected, generator=generator).to(patches)
        patches = patches @ projection / num_projected**0.5
    patches = patches - patches.mean(dim=0)
    squared_norm = patches.square().sum(dim=1)
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2 : one matrix-vector product per step
    distance = torch.full_like(squared_norm, torch.inf)
    chosen = torch.empty(size, dtype=torch.long, device=patches.device)
    chosen[0] = squared_norm.argmax()
    for i in range(1, size):
        newest = chosen[i - 1]
        to_newest = torch.addmv(squared_norm, patches, patches[newest], alpha=-2).add_(squared_norm[newest])
        distance = torch.minimum(distance, to_newest)
        distance[newest] = -torch.inf  # never twice, also where all that is left are copies of those taken
        chosen[i] = distance.argmax()
    return chosen
