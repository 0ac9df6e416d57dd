"""Any timm model as a list of feature maps, and the wrapper that keeps a network frozen."""

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.folding import Folded
from anomaly_zoo.nn.weights import load_weights
from anomaly_zoo.types import Stages

IMAGES_AT_ONCE = 16
"""Images in a pass without gradients. With fewer, torch has a slower kernel for the 1x1 convolutions of one thread."""


class Backbone(nn.Module):
    """Feature maps of a pre-trained timm model, CNN or ViT, from images in [0, 1].

    The network always runs in evaluation mode: the batch-norm statistics of a few images are useless, so they
    stay those of the pre-training even while its parameters are fine-tuned.

    Attributes:
        name: the timm name.
        stages: the indices of the feature maps, as timm counts them.
        num_channels: channels of every stage.

    Args:
        name: a timm model name, for example "tf_efficientnet_lite0", "wide_resnet50_2", "vit_small_patch14_dinov2".
        stages: indices into timm's feature maps (CNN: stages, ViT: blocks), and one more for the convolution of the
            head where a CNN has one, see `all_levels`. By default the strides 8, 16 and 32 of a CNN, as far as the
            weights reach, or the blocks at one half and five sixths of the depth of a ViT.
        weights: "auto", "none", or the path of a file: see `load_weights`.

    Raises:
        ValueError: an unknown name, a stage that the model does not have, or weights that cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "tf_efficientnet_lite0", stages: Sequence[int] | None = None, weights: str = "auto"
    ) -> None:
        super().__init__()
        model = _create(name)
        reductions = [info["reduction"] for info in model.feature_info]
        self._is_vit = len(set(reductions)) == 1
        self._stride = reductions[0] if self._is_vit else 1
        self.name = name
        self.stages = _default_stages(reductions) if stages is None else sorted(set(stages))
        channels = [info["num_chs"] for info in model.feature_info]
        if _has_head(model):
            channels.append(model.num_features)
        if not self.stages or not 0 <= self.stages[0] <= self.stages[-1] < len(channels):
            raise ValueError(f"stages={stages} of {name}: choose among 0 to {len(channels) - 1}.")

        missing = load_weights(model, name, weights)
        while lacking := self._lacking(model, missing):
            if stages is not None or len(self.stages) == 1:
                raise ValueError(f"weights={weights!r} lacks {lacking!r}, which stages={self.stages} of {name} need.")
            self.stages.pop()
        self._has_head = _has_head(model) and not any(key.startswith("conv_head.") for key in missing)
        self._weights = weights
        self._prune(model)
        self.num_channels = [channels[stage] for stage in self.stages]
        self.model = model.to(memory_format=torch.channels_last)
        self._folded = Folded()
        self.register_buffer("mean", torch.tensor(model.pretrained_cfg["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.pretrained_cfg["std"]).view(3, 1, 1), persistent=False)
        self.eval()

    def _prune(self, model: Any) -> None:
        """Takes away what comes after the last of the stages."""
        if self.stages[-1] == len(model.feature_info):  # the head's convolution, which timm counts as no stage
            model.reset_classifier(0, "")
        else:
            model.prune_intermediate_layers(self.stages, prune_norm=not self._is_vit, prune_head=True)

    def _lacking(self, model: Any, missing: list[str]) -> str | None:
        """The first parameter that the stages need and the weights do not have."""
        pruned = copy.deepcopy(model) if missing else model
        if missing:
            self._prune(pruned)
        return next((key for key in missing if key in pruned.state_dict()), None)

    def all_levels(self) -> "Backbone":
        """A copy whose stages are all levels from the stem to the head, as far as there are weights.

        Those are timm's feature maps up to the last one in use and the convolution of the head, where there is one; of
        a ViT its blocks.
        """
        last = self.stages[-1]
        with_head = self._has_head and last == len(self.model.feature_info) - 1
        levels = Backbone(self.name, range(last + 1 + with_head), self._weights).to(self.mean.device)
        levels.model.load_state_dict(self.model.state_dict(), strict=not with_head)
        return levels

    @property
    def spec(self) -> dict[str, Any]:
        """What rebuilds the architecture: the arguments without the weights."""
        return {"name": self.name, "stages": self.stages}

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002 - the signature is torch's
        """Stays in evaluation mode, whatever the parent does."""
        return super().train(False)

    def freeze_before(self, stage: int) -> None:
        """Freezes all that comes before a stage: a CNN's strides below it, a ViT's blocks.

        Early features are general, and their gradients cost most of the memory and much of the time of a step.

        Args:
            stage: as timm counts them.
        """
        if not stage:
            return
        last = self.model.feature_info[stage - 1]["module"]
        names = [name for name, _ in self.model.named_parameters()]
        end = max((number for number, name in enumerate(names) if name.startswith(f"{last}.")), default=-1)
        for parameter in list(self.model.parameters())[: end + 1]:
            parameter.requires_grad_(False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The feature maps of the stages, finest first."""
        if self._is_vit:  # its patches must tile the image
            size = [max(1, round(side / self._stride)) * self._stride for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() or torch.compiler.is_exporting():  # who reads an exported graph folds it
            return self._features(self.model, normalised)
        with torch.autocast(image.device.type, enabled=False):
            folded = self._folded.of(self.model, lambda model: self._features(model, normalised[:1]))
        return self._features(folded, normalised)

    def _features(self, model: Any, normalised: Float[Tensor, "b 3 h w"]) -> Stages:
        num_features = len(self.model.feature_info)
        indices = [stage for stage in self.stages if stage < num_features]
        head = len(indices) < len(self.stages)
        found = model.forward_intermediates(
            normalised, indices=indices, norm=self._is_vit, stop_early=not head, intermediates_only=not head
        )
        features: Stages = [*found[1], found[0]] if head else found
        return features


class Frozen(nn.Module):
    """Keeps a network in evaluation mode and without gradients, whatever its parent does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002 - the signature is torch's
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any) -> Any:
        """Calls the network without recording gradients."""
        return self.module(*args)


@torch.no_grad()
def stages_of(network: Callable[[Tensor], Stages], image: Float[Tensor, "b 3 h w"]) -> Stages:
    """A network's feature maps of many images, `IMAGES_AT_ONCE` at a time, without gradients."""
    features = [network(images) for images in torch.split(image, IMAGES_AT_ONCE)]
    return [torch.cat(stage) for stage in zip(*features, strict=True)]


def _create(name: str) -> Any:
    if name not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"backbone {name!r} is not a timm model.{hint}")
    try:
        return timm.create_model(name, pretrained=False, dynamic_img_size=True)
    except TypeError:  # not a ViT
        return timm.create_model(name, pretrained=False)


def _has_head(model: Any) -> bool:
    """Whether a convolution after the last stage makes other features of it, as in EfficientNet."""
    return hasattr(model, "conv_head") and model.num_features != model.feature_info[-1]["num_chs"]


def _default_stages(reductions: list[int]) -> list[int]:
    depth = len(reductions)
    if len(set(reductions)) == 1:
        return sorted({depth // 2, depth * 5 // 6})
    return [stage for stage, reduction in enumerate(reductions) if reduction in (8, 16, 32)]
