"""Structured pruning of a backbone: channels are taken out of its hidden layers.

torch-pruning removes them; its dependency graph (DepGraph, Fang et al., CVPR 2023) says which layers have to lose a
channel together. The widths of the stages stay, so that a student's features can be compared with its teacher's (ours).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torch_pruning as tp
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.network import Network

Criterion = Literal["l1", "l2", "fpgm", "random", "taylor", "lamp", "batchnorm"]
"""What makes a channel unimportant: small weights (l1, l2, lamp), weights near the others' geometric median (fpgm), a
small influence on the features (taylor), a small scale of its batch normalisation; or chance."""

History = list[tuple[str, bool, list[int]]]
"""What was removed, in order: the layer's name, whether output (else input) channels, and which. Plain values."""

MAX_RATIO = 0.95
_TRACED_SIZE_PX = 64
_ABOVE_ALL = 1e6  # importance is relative to its mean, so 1 is usual


def prune_channels(backbone: Network, ratio: float, criterion: Criterion, image: Float[Tensor, "b 3 h w"]) -> History:
    """Removes a ratio of the channels of every hidden layer, the least important ones, in place; returns what went.

    Hidden is every layer whose channels do not reach a stage's output, not even by a residual connection; in a
    transformer those of the MLPs. A layer keeps at least one channel; the stages keep their widths. Only `taylor` looks
    at the normal images.

    Raises:
        ValueError: a ratio out of range, or `batchnorm` without batch normalisation.
    """
    check_ratio(ratio)
    if criterion == "batchnorm" and not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()):
        raise ValueError(f"criterion='batchnorm': {backbone.name} has no batch normalisation. Choose another one.")
    if ratio == 0:
        return []
    with _traceable(backbone) as probed:
        if criterion == "taylor":
            _accumulate_influence(backbone, image)
        pruner = tp.pruner.BasePruner(
            probed,
            probed.example(),
            importance=_importance(criterion),
            pruning_ratio=ratio,
            max_pruning_ratio=MAX_RATIO,
            ignored_layers=_layers_to_keep(probed),
            unwrapped_parameters=_loose_parameters(probed),
        )
        pruner.step()
        history = pruner.pruning_history()
    return [(name, bool(is_output), [int(i) for i in channels]) for name, is_output, channels in history]


def replay(backbone: Network, history: History) -> None:
    """Removes the channels that another copy of the network, unpruned as this one, has lost, in place."""
    if not history:
        return
    with _traceable(backbone) as probed:
        probed.graph().load_pruning_history(
            [(name, is_output, list(channels)) for name, is_output, channels in history]
        )


def check_ratio(ratio: float) -> None:
    """Raises a ValueError for what is not a pruning ratio."""
    if not 0 <= ratio <= MAX_RATIO:
        raise ValueError(f"pruning_ratio={ratio}: choose 0 to {MAX_RATIO}.")


class _Probed(nn.Module):
    """A backbone with a layer on each stage, by which the graph shows which channels reach the stages' outputs."""

    def __init__(self, backbone: Network) -> None:
        super().__init__()
        self.backbone = backbone
        device = backbone.mean.device
        self.probes = nn.ModuleList(nn.Conv2d(channels, 2, 1, device=device) for channels in backbone.num_channels)

    def example(self) -> Float[Tensor, "1 3 h w"]:
        return torch.zeros(1, 3, _TRACED_SIZE_PX, _TRACED_SIZE_PX, device=self.backbone.mean.device)

    def graph(self) -> Any:
        return tp.DependencyGraph().build_dependency(self, self.example(), unwrapped_parameters=_loose_parameters(self))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [probe(feature) for probe, feature in zip(self.probes, self.backbone(image), strict=True)]


@contextmanager
def _traceable(backbone: Network) -> Iterator[_Probed]:
    """Lets gradients through everything, by which the graph is traced, and tidies up afterwards."""
    trainable = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's hints on what it skips
        with torch.random.fork_rng(devices=[]):
            probed = _Probed(backbone)  # draws initial weights
        yield probed.eval().requires_grad_(True)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trainable)
        parameter.grad = None
    backbone.to(memory_format=torch.channels_last)


def _importance(criterion: Criterion) -> Any:
    kinds = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": tp.importance.FPGMImportance,
        "random": tp.importance.RandomImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        "lamp": tp.importance.LAMPImportance,
        "batchnorm": tp.importance.BNScaleImportance,
    }
    measure: Any = kinds[criterion]()

    def importance(group: Any) -> Tensor | None:
        """Above all others, whatever their scale: the channels that a layer keeps at the largest ratio."""
        value: Tensor | None = measure(group)
        if value is None:
            return None
        value = value.nan_to_num()
        best = value.topk(max(1, round((1 - MAX_RATIO) * len(value)))).indices
        return value.index_add(0, best, torch.full_like(value[best], _ABOVE_ALL))

    return importance


def _layers_to_keep(probed: _Probed) -> list[nn.Module | nn.Parameter]:
    """The layers whose channels reach a stage's output, and attention, whose heads fix its widths."""
    graph = probed.graph()
    keep: list[nn.Module | nn.Parameter] = list(probed.probes)
    for module in probed.backbone.modules():
        if hasattr(module, "num_heads"):
            keep += [part for part in module.modules() if isinstance(part, nn.Linear)]
    probes = set(probed.probes)
    for group in graph.get_all_groups():
        if any(dependency.target.module in probes for dependency, _ in group):
            keep += [part.target.module for part, _ in group if graph.is_out_channel_pruning_fn(part.handler)]
    return keep


def _loose_parameters(network: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters of no layer that the library knows, such as tokens and scales, with the axis of channels."""
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
    return [
        (parameter, parameter.dim() - 1)
        for module in network.modules()
        if not isinstance(module, known)
        for parameter in module.parameters(recurse=False)
    ]


def _accumulate_influence(backbone: Network, image: Float[Tensor, "b 3 h w"]) -> None:
    """Leaves a gradient on every weight: how much it moves the features, in a random direction.

    The distillation loss cannot tell, since its gradient is 0 where the student equals its teacher. Its curvature is
    the squared norm of the features' derivative, of which a random projection of the unit features is an estimate.
    """
    generator = torch.Generator().manual_seed(0)
    for images in torch.split(image[:16], 8):
        for feature in backbone(images):
            direction = torch.randn(feature.shape, generator=generator).to(feature)
            ((F.normalize(feature, dim=1) * direction).sum() / direction.numel() ** 0.5).backward(retain_graph=True)
