"""Unstructured pruning: the smallest weights of a network become 0 and stay so. Shapes and speed do not change."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils import parametrize

from anomaly_zoo.nn.pruning import Scope, check_ratio


def mask_weights(network: nn.Module, ratio: float, scope: Scope) -> list[str]:
    """Sets the smallest weights of the convolutions and linear layers to 0 for good, in place; shapes and speed stay.

    Args:
        network: in place. Layers that are masked already stay so: raise the ratio to mask more of them.
        ratio: of the weights, per layer or of all layers together; 0 to 0.95.
        scope: where weights compete.

    Returns:
        The names of the masked layers; with them `add_masks` prepares a copy for the state dict.

    Raises:
        ValueError: a ratio out of range.
    """
    check_ratio(ratio)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if ratio == 0:
        return []
    add_masks(network, names)
    layers: list[Any] = [network.get_submodule(name) for name in names]
    sizes = [layer.weight.detach().abs() for layer in layers]
    pooled = torch.cat([size.flatten() for size in sizes])
    for layer, size in zip(layers, sizes, strict=True):
        values = pooled if scope == "global" else size.flatten()
        threshold = values.kthvalue(max(1, int(ratio * len(values)))).values
        layer.parametrizations.weight[0].kept.copy_(size > threshold)
    return names


def add_masks(network: nn.Module, names: list[str]) -> None:
    """Gives layers a mask of ones, in place; those that have one keep it.

    Args:
        network: the network.
        names: of its layers with weights, relative to it.
    """
    for name in names:
        layer = network.get_submodule(name)
        if not parametrize.is_parametrized(layer, "weight"):
            mask = _Mask(torch.ones_like(layer.weight, dtype=torch.bool))  # type: ignore[arg-type] # a Parameter
            parametrize.register_parametrization(layer, "weight", mask, unsafe=True)


class _Mask(nn.Module):
    kept: Tensor

    def __init__(self, kept: Bool[Tensor, "..."]) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept
