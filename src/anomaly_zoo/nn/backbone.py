"""What a method sees images with: one pre-trained network or several, each at one scale or several.

Their feature maps are simply more stages, each in its own unit (`nn/scoring.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.network import Layers, Network
from anomaly_zoo.types import Stages

STRIDE = 32  # a scaled image's sides are multiples of it, so that the grids of all stages fit


class Tails(nn.Module):
    """The tails of a backbone's networks; see `Backbone.trainable_tail`."""

    def __init__(self, layers: Sequence[Layers], num_scales: int) -> None:
        super().__init__()
        self.layers: Sequence[Layers] = nn.ModuleList(layers)  # type: ignore[assignment] # so that elements have a type
        self.num_scales = num_scales

    @property
    def stages(self) -> list[list[int]]:
        """Which feature maps each network has, as timm counts them."""
        return [layers.stages for layers in self.layers]

    @property
    def num_stages(self) -> int:
        """Over all networks and scales."""
        return self.num_scales * sum(map(len, self.stages))

    def numbers_of(self, wanted: Sequence[Sequence[int]]) -> list[int]:
        """The numbers that some stages of each network, as timm counts them, have among all, at every scale."""
        numbers, start = [], 0
        for stages, some in zip(self.stages, wanted, strict=True):
            for _ in range(self.num_scales):
                numbers += [start + stages.index(stage) for stage in some]
                start += len(stages)
        return numbers

    def forward(self, trunk: Stages) -> Stages:
        """The feature maps of every network at every scale, from what its trunk saw."""
        owners = (layers for layers in self.layers for _ in range(self.num_scales))
        return [stage for layers, seen in zip(owners, trunk, strict=True) for stage in layers(seen)]


class Backbone(nn.Module):
    """Feature maps from images in [0, 1]: those of the first network at the first scale, at the second, and so on.

    Args:
        name: a timm model name, such as "tf_efficientnet_lite0" or "vit_small_patch14_dinov2"; several are joined by +.
        stages: of a single network, or a list for each; by default see `Network`.
        weights: "auto" or "none" for all, or the path of a file for each network, joined by +; see `load_weights`.
        scales: above 0 and at most 1: the sides that a network sees, in parts of the image's.

    Raises:
        ValueError: an unknown name, a stage that a model lacks, weights that cannot be loaded, a scale out of range.
    """

    def __init__(
        self,
        name: str = "tf_efficientnet_lite0",
        stages: Sequence[int] | Sequence[Sequence[int]] | None = None,
        weights: str = "auto",
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        names = name.split("+")
        files = [weights] * len(names) if len(names) == 1 or weights in ("auto", "none") else weights.split("+")
        if not scales or not all(0 < scale <= 1 for scale in scales) or len(set(scales)) < len(scales):
            raise ValueError(
                f"scales={list(scales)}: choose different numbers above 0 and at most 1, such as [0.667, 1]."
            )
        if len(files) != len(names):
            raise ValueError(f"weights={weights!r}: give one file for each of {name}, joined by +, or auto.")
        chosen = [stages] if stages and isinstance(stages[0], int) else stages or [None] * len(names)
        if len(chosen) != len(names):
            raise ValueError(f"stages={stages}: give a list for each of {name}.")
        self.name = name
        self.scales = list(scales)
        each = zip(names, chosen, files, strict=True)
        networks = nn.ModuleList(Network(one, some, file) for one, some, file in each)  # type: ignore[arg-type]
        self.networks: Sequence[Network] = networks  # type: ignore[assignment]
        self.num_channels = [channels for network in self._owners for channels in network.num_channels]  # by stage
        self.num_early = sum(len(n.trunk_layers.stages) for n in self._owners if n.trunk_layers)  # before the tails

    @property
    def spec(self) -> dict[str, Any]:
        """What rebuilds the architecture: the arguments without the weights."""
        return {"name": self.name, "stages": [n.stages for n in self.networks], "scales": self.scales}

    def finest(self, count: int) -> list[int]:
        """The numbers of the `count` finest stages of every network and scale."""
        numbers: list[int] = []
        start = 0
        for network in self._owners:
            numbers += range(start, start + min(count, len(network.stages)))
            start += len(network.stages)
        return numbers

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The feature maps of all stages."""
        return self.tail(self.trunk(image)[1])

    def trunk(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Stages, Stages]:
        """What the trunks see, of every network at every scale: their feature maps, and what the tails go on from."""
        levels: Stages = []
        seen: Stages = []
        images = [scaled(image, scale) for scale in self.scales]
        for network in self.networks:
            for some in images:
                stages = network.trunk(some)
                levels += stages if network.trunk_layers else []
                seen.append(stages[-1])
        return levels, seen

    def tail(self, trunk: Stages) -> Stages:
        """The feature maps of all stages, from what the trunks saw."""
        return [stage for network, seen in zip(self._owners, trunk, strict=True) for stage in network.tail(seen)]

    def trainable_tail(self, all_levels: bool = False) -> Tails:
        """Copies of the networks' tails, one for all scales; see `Network.trainable_tail`."""
        return Tails([network.trainable_tail(all_levels) for network in self.networks], len(self.scales))

    @property
    def _owners(self) -> list[Network]:
        """The network of every trunk: each once per scale."""
        return [network for network in self.networks for _ in self.scales]


def scaled(image: Float[Tensor, "b 3 h w"], scale: float) -> Float[Tensor, "b 3 _ _"]:
    """A smaller image, its sides the nearest multiples of `STRIDE`; at scale 1 the image as it is."""
    if scale == 1:
        return image
    size = [max(1, round(side * scale / STRIDE)) * STRIDE for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)
