"""How far patches are from those of the support, training-free, in units of what normal images have.

Ours: two kinds of distances, of all stages with patches at unit length and of the finest ones with patches as they are.
Unit length ranks images better, the length of a feature shows faint defects. The memory is a random sample: a coreset
covers all patches evenly and forgets how dense they lie, and it takes longer.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.memory import Distances, PatchMemory
from anomaly_zoo.nn.validation import held_out_folds

NUM_RAW_STAGES = 2
MAX_HELD_OUT = 8
NUM_COMPARED = 2048
MIN_SPREAD = 1e-6


class SupportDistance(nn.Module):
    """A memory of the support's patches, and the mean distances that held-out support images have as their unit.

    Args:
        num_stages: feature maps per image.
        max_patches: of every stage that the memory keeps.
    """

    spread: Tensor

    def __init__(self, num_stages: int, max_patches: int = 8192) -> None:
        super().__init__()
        self.max_patches = max_patches
        self.memory = PatchMemory(num_stages, min(NUM_RAW_STAGES, num_stages))
        self.register_buffer("spread", torch.ones(num_stages + self.memory.num_raw))

    def fit(self, features: list[Float[Tensor, "n _ _ _"]], instance: Int[Tensor, " n"]) -> None:
        """Remembers patches, and measures the units by holding out support images (their views if there is but one).

        Args:
            features: of the support.
            instance: the number of the image that a view stems from.
        """
        folds = held_out_folds(instance, MAX_HELD_OUT)
        if folds:  # else there is a single view: nothing to compare with
            self.spread = torch.stack([self._held_out(features, out) for out in folds]).mean(dim=0)
            self.spread = self.spread.clamp(min=MIN_SPREAD)
        self._fit(self.memory, features, self.max_patches)

    def forward(self, features: list[Float[Tensor, "b _ _ _"]]) -> tuple[Distances, Distances]:
        """Distances of patches at unit length in every stage, and of patches as they are in the finest stages."""
        unit, raw = self.memory(features)
        distances = [stage / spread for stage, spread in zip(unit + raw, self.spread, strict=True)]
        return distances[: len(unit)], distances[len(unit) :]

    def _held_out(self, features: list[Float[Tensor, "n _ _ _"]], out: Bool[Tensor, " n"]) -> Float[Tensor, " s"]:
        """Mean distances of the first view that is held out to a sample of the others."""
        others = PatchMemory(self.memory.num_stages, self.memory.num_raw)
        self._fit(others, [stage[~out] for stage in features], NUM_COMPARED)
        first = out.nonzero()[:1, 0]
        unit, raw = others([stage[first] for stage in features])
        return torch.stack([distance.mean() for distance in unit + raw])

    @staticmethod
    def _fit(memory: PatchMemory, features: list[Float[Tensor, "n _ _ _"]], size: int) -> None:
        memory.fit(features, size, num_candidates=size)
