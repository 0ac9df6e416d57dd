"""A memory of normal patches, stage by stage: greedy coresets to build it, nearest neighbours to ask it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.nearest import NUM_NEIGHBOURS, nearest_rows, row_distances, rows_of

MAX_CANDIDATES = 32768
MIN_WEIGHT = 1e-5  # of a row: more than rounding, less than what rows differ by

Distances = list[Float[Tensor, "b _ _"]]


class PatchMemory(nn.Module):
    """The support's patches of every stage, thinned out to coresets, and how far other patches are from them.

    Ours: patches are compared at unit length (contrast matters less, and no stage outvotes another), and those of the
    finest stages also as they are, with the very rows that are the nearest at unit length: one search does for both.
    Each of these rows counts as much as it is nearer than the next one, so that nothing leaps where two are equally
    near. Every stage is searched on its own grid, at a tenth of the work of one grid of joined stages (PatchCore, Roth
    et al., CVPR 2022), and the mean over the `NUM_NEIGHBOURS` nearest replaces the distance to the nearest one, which
    a single odd patch of the support decides.

    Args:
        num_stages: feature maps per image, finest first.
        num_raw: of them, the finest whose patches are also compared as they are.
    """

    def __init__(self, num_stages: int, num_raw: int = 0) -> None:
        super().__init__()
        self.num_stages = num_stages
        self.num_raw = num_raw
        for stage in range(num_stages):
            self.register_buffer(f"stage{stage}", torch.empty(0, 0))
        for stage in range(num_raw):
            self.register_buffer(f"length{stage}", torch.empty(0))

    def fit(self, features: list[Float[Tensor, "n _ _ _"]], size: int, num_candidates: int = MAX_CANDIDATES) -> None:
        """Remembers at most `size` patches per stage, chosen by `greedy_coreset` among random candidates.

        Args:
            features: of the support.
            size: of the memory of every stage.
            num_candidates: drawn at random, always the same; with no more than `size`, the memory is a random sample.
        """
        for stage, feature in enumerate(features):
            direction, patches = rows_of(F.normalize(feature, dim=1)), rows_of(feature)
            if len(patches) > num_candidates:
                drawn = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:num_candidates]
                direction, patches = direction[drawn.to(patches.device)], patches[drawn.to(patches.device)]
            chosen = greedy_coreset(direction, size)
            setattr(self, f"stage{stage}", direction[chosen].contiguous())
            if stage < self.num_raw:
                setattr(self, f"length{stage}", patches[chosen].norm(dim=1))

    def forward(self, features: list[Float[Tensor, "b _ _ _"]]) -> tuple[Distances, Distances]:
        """Distances of every patch at unit length in every stage, and as it is in the finest ones.

        Raises:
            RuntimeError: the memory is empty.
        """
        unit, raw = [], []
        for stage, feature in enumerate(features):
            rows: Tensor = getattr(self, f"stage{stage}")
            if not len(rows):
                raise RuntimeError("The patch memory is empty: fit it on the support first.")
            direction, shape = rows_of(F.normalize(feature, dim=1)), (len(feature), *feature.shape[2:])
            nearest = nearest_rows(direction, rows, NUM_NEIGHBOURS + (stage < self.num_raw))
            distance = row_distances(direction, rows, nearest)
            unit.append(mean_of_nearest(distance).view(shape))
            if stage < self.num_raw:
                as_they_are = row_distances(rows_of(feature), rows * getattr(self, f"length{stage}")[:, None], nearest)
                raw.append(weighted_by_nearness(as_they_are, distance).view(shape))
        return unit, raw


def mean_of_nearest(distance: Float[Tensor, "p k"]) -> Float[Tensor, " p"]:
    """Mean distance to the `NUM_NEIGHBOURS` nearest rows; k is one more, or less if a memory has no more.

    Example:
        >>> mean_of_nearest(torch.tensor([[1.0, 9.0, 2.0, 3.0]]))
        tensor([2.])
    """
    if distance.shape[1] <= NUM_NEIGHBOURS:
        return distance.mean(dim=1)
    return (distance.sum(dim=1) - distance.amax(dim=1)) / NUM_NEIGHBOURS


def weighted_by_nearness(value: Float[Tensor, "p k"], distance: Float[Tensor, "p k"]) -> Float[Tensor, " p"]:
    """Mean of what belongs to the rows, each weighted by how much nearer it is than the farthest of them.

    Example:
        >>> weighted_by_nearness(torch.tensor([[6.0, 5.0, 3.0]]), torch.tensor([[1.0, 4.0, 1.0]]))
        tensor([4.5000])
    """
    weight = distance.amax(dim=1, keepdim=True) - distance + MIN_WEIGHT
    return (weight * value).sum(dim=1) / weight.sum(dim=1)


def greedy_coreset(patches: Float[Tensor, "p d"], size: int, num_projected: int = 32) -> Int[Tensor, " m"]:
    """Indices of patches that cover all of them: greedy k-center (Sener and Savarese, ICLR 2018).

    Starts at the patch farthest from the mean and then takes, `size` - 1 times, the patch that is farthest
    from those taken. Distances are those of a fixed random projection (Johnson-Lindenstrauss), as PatchCore does.

    Args:
        patches: the candidates.
        size: how many to take; all of them if there are not more.
        num_projected: dimensions to project to.

    Example:
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
