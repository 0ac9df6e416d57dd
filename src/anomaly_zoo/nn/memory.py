"""A memory of normal patches: greedy coreset to build it, exact nearest neighbour to ask it."""

import faiss
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class PatchMemory(nn.Module):
    """The patches of the support, thinned out to a coreset, and how far other patches are from them.

    Attributes:
        patches: the memory; empty before `fit`.
    """

    patches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("patches", torch.empty(0, 0))

    def fit(self, patches: Float[Tensor, "p d"], size: int) -> None:
        """Remembers at most `size` of the patches, chosen by `greedy_coreset`."""
        self.patches = patches[greedy_coreset(patches, size)].contiguous()

    def forward(self, patches: Float[Tensor, "p d"]) -> Float[Tensor, " p"]:
        """Euclidean distance of every patch to its nearest neighbour in the memory.

        Raises:
            RuntimeError: the memory is empty.
        """
        if not len(self.patches):
            raise RuntimeError("The patch memory is empty: fit it on the support first.")
        return nearest_distance(patches, self.patches)


def nearest_distance(patches: Float[Tensor, "p d"], memory: Float[Tensor, "m d"]) -> Float[Tensor, " p"]:
    """Euclidean distance to the nearest row of the memory, by faiss on CPU.

    The search may err between rows that are equally near up to rounding; the distance itself never suffers from the
    cancellation in |x|^2 - 2 x.m + |m|^2, so that a patch of the memory has distance 0.

    Example:
        >>> nearest_distance(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        tensor([2.])
    """
    patches, memory = patches.detach().float(), memory.float()
    chunks = torch.split(patches, 4096)
    if patches.device.type == "cpu":
        faiss.omp_set_num_threads(torch.get_num_threads())
        nearest = torch.from_numpy(faiss.knn(patches.numpy(), memory.numpy(), 1)[1][:, 0])
    else:
        nearest = torch.cat([torch.cdist(chunk, memory).argmin(dim=1) for chunk in chunks])
    rows = torch.split(nearest, 4096)
    return torch.cat([(chunk - memory[row]).norm(dim=1) for chunk, row in zip(chunks, rows, strict=True)])


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
