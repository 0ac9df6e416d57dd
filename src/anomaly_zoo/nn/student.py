"""A student: a copy of a teacher that can be pruned, also bit by bit, and that knows how to be rebuilt."""

import copy
from typing import Literal, TypedDict

from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.masking import add_masks, mask_weights
from anomaly_zoo.nn.pruning import Criterion, History, Scope, check_ratio, prune_channels, replay

Structure = Literal["channels", "weights"]


class Pruning(TypedDict):
    """What was pruned, in plain values: which channels, and the layers with masked weights."""

    history: History
    masked: list[str]


class Student(nn.Module):
    """A trainable copy of a backbone, of the same feature maps.

    Args:
        teacher: is copied, not changed.
        initial: whether the copy keeps the teacher's weights or gets random ones.
    """

    def __init__(self, teacher: Backbone, initial: Literal["pretrained", "random"] = "pretrained") -> None:
        super().__init__()
        fresh = Backbone(**teacher.spec, weights="none") if initial == "random" else copy.deepcopy(teacher)
        self.backbone = fresh.to(teacher.mean.device).requires_grad_(True)
        self.ratio = 0.0
        self.pruning: Pruning = {"history": [], "masked": []}

    def prune(
        self, ratio: float, image: Float[Tensor, "b 3 h w"], criterion: Criterion, scope: Scope, structure: Structure
    ) -> None:
        """Prunes as much as is missing to a ratio of the unpruned network; parameters are new ones afterwards.

        Args:
            ratio: of the hidden channels or of the weights, counted from the unpruned network.
            image: normal images in [0, 1].
            criterion: see `prune_channels`; weights go by their size.
            scope: where channels or weights compete.
            structure: whether channels are removed or weights set to 0.

        Raises:
            ValueError: see `prune_channels`.
        """
        check_ratio(ratio)
        if structure == "weights":
            self.pruning["masked"] = mask_weights(self.backbone, ratio, scope)
        else:
            missing = max(0.0, 1 - (1 - ratio) / (1 - self.ratio))
            self.pruning["history"] += prune_channels(self.backbone, missing, criterion, scope, image)
        self.ratio = ratio

    def rebuild(self, pruning: Pruning) -> None:
        """Gives an unpruned student the shapes of another one, so that it can load that one's state dict."""
        replay(self.backbone, pruning["history"])
        add_masks(self.backbone, pruning["masked"])
        self.pruning = pruning

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The feature maps of the teacher's stages, finest first."""
        features: list[Tensor] = self.backbone(image)
        return features
