"""Exact nearest neighbours among the patches of normal images."""

import faiss
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

NUM_NEIGHBOURS = 3
GROUP = 64  # columns of a product that `smallest` looks at together
CHUNK = 512  # patches at once on a CPU: what they make of a memory stays in its cache
MAX_NUMBERS = 2**26  # that patches make at once on a GPU


def nearest_distance(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], num_neighbours: int = NUM_NEIGHBOURS
) -> Float[Tensor, " p"]:
    """Mean Euclidean distance to the nearest rows of the memory.

    >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]), num_neighbours=1)
    tensor([2.])
    """
    return row_distances(patches, memory, nearest_rows(patches, memory, num_neighbours)).mean(dim=1)


def nearest_rows(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], num_neighbours: int = NUM_NEIGHBOURS
) -> Int[Tensor, "p k"]:
    """Indices of the nearest rows of the memory, in no order; exact up to rounding between rows that are equally near.

    On a CPU faiss searches. On a GPU, where the faiss of the package index cannot search, matrix products do; so they
    do in an exported graph, which can hold no call of faiss.
    """
    patches, memory = patches.detach().float(), memory.float()
    num_neighbours = min(num_neighbours, len(memory))
    if memory.device.type == "cpu":
        faiss.omp_set_num_threads(torch.get_num_threads())
        found = faiss.knn(patches.contiguous().numpy(), memory.contiguous().numpy(), num_neighbours)[1]
        return torch.from_numpy(found)
    centre, factor, squared_norm = factors(memory)
    chunks = torch.split(patches - centre, _num_at_once(memory, len(memory)))
    return torch.cat([smallest(torch.addmm(squared_norm, chunk, factor.T), num_neighbours) for chunk in chunks])


def row_distances(
    patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"], rows: Int[Tensor, "p k"]
) -> Float[Tensor, "p k"]:
    """Euclidean distance of every patch to its rows of the memory; exactly 0 of a row to itself."""
    patches, memory = patches.detach().float(), memory.float()
    num_at_once = _num_at_once(memory, rows.shape[1] * memory.shape[1])
    chunks = zip(torch.split(patches, num_at_once), torch.split(rows, num_at_once), strict=True)
    return torch.cat([(chunk[:, None] - memory[row]).norm(dim=2) for chunk, row in chunks])


def factors(memory: Float[Tensor, "m d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """What the distance of a patch x to every row m is ranked by: |m|^2 - 2 x.m, around the rows' mean.

    Far from the origin, it would drown in rounding. Returns the mean; -2 m and |m|^2 of every row, and of infinitely
    far ones up to a multiple of `GROUP`.
    """
    centre = memory.mean(dim=0)
    filling = -len(memory) % GROUP
    squared_norm = (memory - centre).square().sum(dim=1)
    return centre, F.pad(-2 * (memory - centre), (0, 0, 0, filling)), F.pad(squared_norm, (0, filling), value=torch.inf)


def smallest(values: Float[Tensor, "p m"], count: int) -> Int[Tensor, "p k"]:
    """Columns (a multiple of `GROUP`) of the `count` smallest values in every row.

    They are among the `count` groups of columns with the smallest minima: several times as fast as looking at all.
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


def rows_of(feature: Float[Tensor, "n c h w"]) -> Float[Tensor, "p c"]:
    """One row per patch, images after each other."""
    return feature.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def _num_at_once(memory: Tensor, numbers_per_patch: int) -> int:
    return CHUNK if memory.device.type == "cpu" else max(1, MAX_NUMBERS // max(1, numbers_per_patch))
