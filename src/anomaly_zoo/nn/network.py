"""Any timm model as a list of feature maps: a trunk that stays, and a tail that may be tuned."""

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.folding import Folded, agree
from anomaly_zoo.nn.weights import load_weights
from anomaly_zoo.types import Stages

# In a pass without gradients. With fewer, torch has a slower kernel for the 1x1 convolutions of one thread.
IMAGES_AT_ONCE = 16


class Layers(nn.Module):
    """Consecutive layers of a timm model, always in evaluation mode; `stages` are timm's numbers of its feature maps.

    The batch-norm statistics of a few images are useless: those of the pre-training stay while parameters are tuned.
    """

    def __init__(self, model: Any, stages: list[int]) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.stages = stages
        self._folded = Folded()
        self.eval()

    def train(self, mode: bool = True) -> "Layers":  # noqa: ARG002 - the signature is torch's
        """Stays in evaluation mode, whatever the parent does."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "b _ h w"]) -> Stages:
        """The feature maps of the stages, finest first."""
        is_trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.model.parameters())
        if is_trained or torch.compiler.is_exporting():  # who reads an exported graph folds it
            return self.features(self.model, x)
        with torch.autocast(x.device.type, enabled=False):
            folded = self._folded.of(self.model, lambda model: self.features(model, x[:1]))
        return self.features(folded, x)

    def features(self, model: Any, x: Float[Tensor, "b _ h w"]) -> Stages:
        """The same of a model of the same architecture."""
        num_features = len(self.model.feature_info)
        indices = [stage for stage in self.stages if stage < num_features]
        head = len(indices) < len(self.stages)
        found = model.forward_intermediates(
            x, indices=indices, norm=_is_vit(model), stop_early=not head, intermediates_only=not head
        )
        features: Stages = [*found[1], found[0]] if head else found
        return features


class Network(nn.Module):
    """Feature maps of a pre-trained timm model, CNN or ViT, from images in [0, 1]: a trunk, and a tail.

    The trunk are a CNN's layers before the first stage. What they see is general, and their gradients cost much time:
    a method can train a copy of the tail alone, so that the trunk runs once for both.

    Stages are indices into timm's feature maps (CNN: stages, ViT: blocks), and one more for the convolution of the head
    where a CNN has one. By default they are the strides 8, 16 and 32 of a CNN, as far as the weights reach, or the
    blocks at one half and five sixths of the depth of a ViT.

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
        self._patch = reductions[0] if _is_vit(model) else 1
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
        self.trunk_layers, self.tail = _split(Layers(model, self.stages))
        self.register_buffer("mean", torch.tensor(model.pretrained_cfg["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(model.pretrained_cfg["std"]).view(3, 1, 1), persistent=False)

    def _prune(self, model: Any) -> None:
        """Takes away what comes after the last of the stages."""
        if self.stages[-1] == len(model.feature_info):  # the head's convolution, which timm counts as no stage
            model.reset_classifier(0, "")
        else:
            model.prune_intermediate_layers(self.stages, prune_norm=not _is_vit(model), prune_head=True)

    def _lacking(self, model: Any, missing: list[str]) -> str | None:
        """The first parameter that the stages need and the weights do not have."""
        pruned = copy.deepcopy(model) if missing else model
        if missing:
            self._prune(pruned)
        return next((key for key in missing if key in pruned.state_dict()), None)

    def trainable_tail(self, all_levels: bool = False) -> Layers:
        """A copy of the tail to be trained. Where there is no trunk, what comes before the first stage is frozen.

        With `all_levels`, its stages are all feature maps of timm that come after the trunk's, and the convolution of
        the head where there is one with weights.
        """
        tail = copy.deepcopy(self.tail)
        if all_levels:
            last = self.stages[-1]
            with_head = self._has_head and last == len(self.tail.model.feature_info) - 1
            levels = range(len(self.trunk_layers.stages) if self.trunk_layers else 0, last + 1 + with_head)
            tail = Network(self.name, levels, self._weights).to(self.mean.device).tail
            tail.load_state_dict(self.tail.state_dict(), strict=not with_head)
        tail.requires_grad_(True)
        if self.trunk_layers is None and self.stages[0]:
            last = tail.model.feature_info[self.stages[0] - 1]["module"]
            names = [name for name, _ in tail.model.named_parameters()]
            end = max((number for number, name in enumerate(names) if name.startswith(f"{last}.")), default=-1)
            for parameter in list(tail.model.parameters())[: end + 1]:
                parameter.requires_grad_(False)
        return tail

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The feature maps of the stages, finest first."""
        stages: Stages = self.tail(self.trunk(image)[-1])
        return stages

    def trunk(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The feature maps before the first stage; a tail goes on from the last. Without layers, what a tail takes."""
        if self._patch > 1:  # a ViT's patches must tile the image
            size = [max(1, round(side / self._patch)) * self._patch for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.trunk_layers(normalised) if self.trunk_layers else [normalised]


@torch.no_grad()
def stages_of(network: Callable[[Any], Stages], image: Float[Tensor, "b _ h w"] | Stages) -> Stages:
    """A network's feature maps of many images (or of what their trunks saw), few at a time, without gradients."""
    if isinstance(image, Tensor):
        features = [network(images) for images in torch.split(image, IMAGES_AT_ONCE)]
    else:
        parts = zip(*(torch.split(stage, IMAGES_AT_ONCE) for stage in image), strict=True)
        features = [network(list(part)) for part in parts]
    return [torch.cat(stage) for stage in zip(*features, strict=True)]


@torch.no_grad()
def _split(whole: Layers) -> tuple[Layers | None, Layers]:
    """The layers before the first stage, and the others, if the layers come one after the other."""
    model, first = whole.model, whole.stages[0]
    if not first or _is_vit(model):
        return None, whole
    last = model.feature_info[first - 1]["module"]
    modules = list(model.named_modules())
    end = max((number for number, (name, _) in enumerate(modules) if f"{name}.".startswith(f"{last}.")), default=-1)
    trunk, rest = copy.deepcopy(model), copy.deepcopy(model)
    trunk.prune_intermediate_layers([first - 1], prune_norm=True, prune_head=True)
    for number, (name, module) in reversed(list(enumerate(modules))):  # what is inside of others first
        if number + sum(1 for _ in module.modules()) - 1 <= end:
            rest.set_submodule(name, nn.Identity())
    early, tail = Layers(trunk, list(range(first))), Layers(rest, whole.stages)
    image = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    try:
        same = agree(whole.features(model, image), tail.features(rest, early.features(trunk, image)[-1]))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError):  # each architecture fails in its way
        same = False
    return (early, tail) if same else (None, whole)


def _is_vit(model: Any) -> bool:
    return len({info["reduction"] for info in model.feature_info}) == 1


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
