"""How far patches are from those of the support, training-free, in units of what normal images have.

Ours: two kinds of distances, of all stages with patches at unit length and of the finest ones with patches as they are.
Unit length ranks images better, the length of a feature shows faint defects. The memories are random samples: a coreset
covers all patches evenly and forgets how dense they lie, and it takes longer.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anomaly_zoo.nn.features import unit_patches
from anomaly_zoo.nn.memory import PatchMemory, nearest_distance
from anomaly_zoo.nn.validation import held_out_folds

NUM_RAW_STAGES = 2
MAX_HELD_OUT = 8
NUM_COMPARED = 2048
MIN_SPREAD = 1e-6

Distances = list[Float[Tensor, "b _ _"]]


class SupportDistance(nn.Module):
    """Memories of the support's patches, and the mean distance that held-out support images have as their unit.

    Args:
        num_stages: feature maps per image.
        max_patches: of every stage that a memory keeps.
    """

    spread: Tensor

    def __init__(self, num_stages: int, max_patches: int = 8192) -> None:
        super().__init__()
        self.max_patches = max_patches
        self.num_stages = num_stages
        self.num_raw = min(NUM_RAW_STAGES, num_stages)
        self.unit_memory = PatchMemory(num_stages)
        self.raw_memory = PatchMemory(self.num_raw)
        self.register_buffer("spread", torch.ones(num_stages + self.num_raw))

    def fit(self, features: list[Float[Tensor, "n _ _ _"]], instance: Int[Tensor, " n"]) -> None:
        """Remembers patches, and measures the units by holding out support images (their views if there is but one).

        Args:
            features: of the support.
            instance: the number of the image that a view stems from.
        """
        unit = unit_patches(features)
        folds = held_out_folds(instance, MAX_HELD_OUT)
        if folds:  # else there is a single view: nothing to compare with
            spreads = []
            for out in folds:
                rest, first = ~out, out.nonzero()[:1, 0]
                parts = [_mean_distance(stage[first], stage[rest]) for stage in [*unit, *features[: self.num_raw]]]
                spreads.append(torch.stack(parts))
            self.spread = torch.stack(spreads).mean(dim=0).clamp(min=MIN_SPREAD)
        self.unit_memory.fit([_sample(stage, self.max_patches) for stage in unit], self.max_patches)
        self.raw_memory.fit([_sample(stage, self.max_patches) for stage in features[: self.num_raw]], self.max_patches)

    def forward(self, features: list[Float[Tensor, "b _ _ _"]]) -> tuple[Distances, Distances]:
        """Distances of patches at unit length in every stage, and of patches as they are in the finest stages."""
        unit, raw = self.unit_memory(unit_patches(features)), self.raw_memory(features[: self.num_raw])
        distances = [stage / spread for stage, spread in zip(unit + raw, self.spread, strict=True)]
        return distances[: self.num_stages], distances[self.num_stages :]


def _mean_distance(feature: Float[Tensor, "b c h w"], others: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean distance of patches to a sample of those of other images."""
    sample = _sample(others, NUM_COMPARED)[0, :, :, 0].T.contiguous()
    return nearest_distance(feature.movedim(1, 3).flatten(0, 2).contiguous(), sample).mean()


def _sample(feature: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "1 c p 1"]:
    """At most so many patches, drawn at random, always the same."""
    patches = feature.movedim(1, 3).flatten(0, 2)
    chosen = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))[:size]
    return patches[chosen.to(patches.device)].T[None, :, :, None]
