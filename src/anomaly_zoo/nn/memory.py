"""A memory of normal patches, stage by stage: greedy coresets to build it, exact nearest neighbours to ask it."""

import faiss
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.backbone import IMAGES_AT_ONCE

NUM_NEIGHBOURS = 3
FAISS_ROWS = 16384
GROUP = 64  # columns of a product that `smallest` looks at together
MAX_CANDIDATES = 32768
CHUNK = 512  # patches at once on a CPU: what they make of a memory stays in its cache
MAX_NUMBERS = 2**26  # that patches make at once on a GPU
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
            direction, patches = _rows(F.normalize(feature, dim=1)), _rows(feature)
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
            direction, shape = _rows(F.normalize(feature, dim=1)), (len(feature), *feature.shape[2:])
            if stage >= self.num_raw:
                unit.append(nearest_distance(direction, rows).view(shape))
                continue
            nearest = nearest_rows(direction, rows, NUM_NEIGHBOURS + 1)
            distance = row_distances(direction, rows, nearest)
            as_they_are = row_distances(_rows(feature), rows * getattr(self, f"length{stage}")[:, None], nearest)
            unit.append(mean_of_nearest(distance).view(shape))
            raw.append(weighted_by_nearness(as_they_are, distance).view(shape))
        return unit, raw


def nearest_distance(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], num_neighbours: int = NUM_NEIGHBOURS
) -> Float[Tensor, " p"]:
    """Mean Euclidean distance to the nearest rows of the memory; exact.

    Args:
        patches: the queries.
        memory: the rows to search.
        num_neighbours: how many of the nearest; all rows if there are fewer.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]), num_neighbours=1)
        tensor([2.])
    """
    return row_distances(patches, memory, nearest_rows(patches, memory, num_neighbours)).mean(dim=1)


def nearest_rows(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], num_neighbours: int = NUM_NEIGHBOURS
) -> Int[Tensor, "p k"]:
    """Indices of the nearest rows of the memory, in no order.

    A small memory is searched by a matrix product, a large one on the CPU by faiss: each where it is the faster one.
    The search may err between rows that are equally near up to rounding.

    Args:
        patches: the queries.
        memory: the rows to search.
        num_neighbours: k; all rows if there are fewer.
    """
    patches, memory = patches.detach().float(), memory.float()
    num_neighbours = min(num_neighbours, len(memory))
    by_faiss = memory.device.type == "cpu" and len(memory) >= FAISS_ROWS
    centre, factor, squared_norm = factors(memory)
    nearest = []
    for chunk in torch.split(patches, _num_at_once(memory, len(memory))):
        if by_faiss:
            faiss.omp_set_num_threads(torch.get_num_threads())
            nearest.append(torch.from_numpy(faiss.knn(chunk.numpy(), memory.numpy(), num_neighbours)[1]))
        else:
            nearest.append(smallest(products(chunk - centre, factor, squared_norm), num_neighbours))
    return torch.cat(nearest)


def row_distances(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], rows: Int[Tensor, "p k"]
) -> Float[Tensor, "p k"]:
    """Euclidean distance of every patch to its rows of the memory.

    It never suffers from the cancellation in |x|^2 - 2 x.m + |m|^2: a patch of the memory has distance 0 to itself.
    """
    patches, memory = patches.detach().float(), memory.float()
    num_at_once = _num_at_once(memory, rows.shape[1] * memory.shape[1])
    chunks = zip(torch.split(patches, num_at_once), torch.split(rows, num_at_once), strict=True)
    return torch.cat([(chunk[:, None] - memory[row]).norm(dim=2) for chunk, row in chunks])


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
        >>> weighted_by_nearness(torch.tensor([[6.0, 50.0, 3.0]]), torch.tensor([[1.0, 4.0, 1.0]]))
        tensor([4.5000])
    """
    weight = distance.amax(dim=1, keepdim=True) - distance + MIN_WEIGHT
    return (weight * value).sum(dim=1) / weight.sum(dim=1)


def factors(memory: Float[Tensor, "m d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """What the distance of a patch x to every row m is ranked by: |m|^2 - 2 x.m, with x and m around the rows' mean.

    Far from the origin, it would drown in rounding.

    Returns:
        The mean; -2 m and |m|^2 of every row, and of infinitely far ones up to a multiple of `GROUP`.
    """
    centre = memory.mean(dim=0)
    filling = -len(memory) % GROUP
    squared_norm = (memory - centre).square().sum(dim=1)
    return centre, F.pad(-2 * (memory - centre), (0, 0, 0, filling)), F.pad(squared_norm, (0, filling), value=torch.inf)


def products(
    patches: Float[Tensor, "p d"], factor: Float[Tensor, "n d"], added: Float[Tensor, " n"]
) -> Float[Tensor, "p n"]:
    """`patches @ factor.T + added`, on a CPU as a 1x1 convolution where it can be one.

    torch has two libraries for the same arithmetic there: on AMD processors, the one for matrices takes 2.6 times as
    long as the one for convolutions, which with one thread serves no fewer than 16 images.
    """
    if patches.device.type != "cpu" or not len(patches) or len(patches) % IMAGES_AT_ONCE:
        return torch.addmm(added, patches, factor.T)
    images = torch.unflatten(patches, 0, (IMAGES_AT_ONCE, -1))[:, :, None].permute(0, 3, 1, 2)
    return F.conv2d(images, factor[:, :, None, None], added).permute(0, 2, 3, 1).flatten(0, 2)


def smallest(values: Float[Tensor, "p m"], count: int) -> Int[Tensor, "p k"]:
    """Columns of the `count` smallest values in every row.

    They are among the `count` groups of columns with the smallest minima, so that only one number per group has to be
    looked at, and then the members of `count` groups: several times as fast as looking at all.

    Args:
        values: m is a multiple of `GROUP`.
        count: at most m.
    """
    num_rows, num_groups = values.shape[0], values.shape[1] // GROUP
    if num_groups <= count:
        return values.topk(count, dim=1, largest=False).indices
    groups = torch.unflatten(values, 1, (num_groups, GROUP))
    group = groups.amin(dim=2).topk(count, dim=1, largest=False).indices
    row = torch.arange(num_rows, device=values.device)[:, None] * num_groups + group
    place = groups.flatten(0, 1)[row].flatten(1).topk(count, dim=1, largest=False).indices
    column: Tensor = group.gather(1, place // GROUP) * GROUP + place % GROUP
    return column


def distance_to_sample(
    feature: Float[Tensor, "b c h w"], others: Float[Tensor, "n c h w"], num_patches: int = 2048
) -> Float[Tensor, "b h w"]:
    """`nearest_distance` of patches to an even sample of those of other images; enough for a mean."""
    step = max(1, others[:, 0].numel() // num_patches)
    sample = _rows(others)[::step].contiguous()
    return nearest_distance(_rows(feature), sample).view(len(feature), *feature.shape[2:])


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


def _num_at_once(memory: Tensor, numbers_per_patch: int) -> int:
    return CHUNK if memory.device.type == "cpu" else max(1, MAX_NUMBERS // max(1, numbers_per_patch))


def _rows(feature: Float[Tensor, "n c h w"]) -> Float[Tensor, "p c"]:
    """One row per patch, images after each other."""
    return feature.permute(0, 2, 3, 1).flatten(0, 2).contiguous()
