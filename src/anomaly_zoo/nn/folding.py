"""Batch normalisation folded into the convolutions before it: the same features up to rounding, in 2/3 of the time.

16 images of 256 px, EfficientNet-Lite0, one thread: .37 s before, .24 s folded (.29 s without `_SamePadded`). For
passes without gradients: training moves the two apart in another way than their product.
"""

import copy
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the norm of a feature map


class Folded:
    """The folded copy of one network, made anew when the network has changed.

    A batch norm is taken to follow the convolution registered right before it. Whether that holds is seen from the
    features of the first images; if they differ, the network is used as it is.
    """

    def __init__(self) -> None:
        self._made: tuple[object, nn.Module] | None = None
        self._holds: bool | None = None

    def __reduce__(self) -> tuple[type["Folded"], tuple[()]]:
        """A copied or unpickled network makes its own."""
        return Folded, ()

    @torch.no_grad()
    def of(self, network: nn.Module, features: Callable[[nn.Module], list[Tensor]]) -> nn.Module:
        """The folded copy of a network (in evaluation mode, always the same one), or itself if nothing can be folded.

        `features` is what a network of this architecture sees in some images.
        """
        if self._holds is None and not _pairs(network):
            self._holds = False
        if self._holds is False:
            return network
        state = [
            (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
            for tensor in chain(network.parameters(), network.buffers())
        ]
        made = self._made
        if made is None or made[0] != state:
            copied = copy.deepcopy(network).requires_grad_(False)
            copied.zero_grad()  # frees the gradients that were copied, too
            made = (state, _fold(copied))
            if self._holds is None:
                with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # it rounds by more than TOLERANCE
                    self._holds = agree(features(network), features(made[1]))
            if not self._holds:
                return network
            self._made = made
        return made[1]


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions, each with that of the batch norm of as many channels that is the next layer."""
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) or not any(module.children())
    ]
    return [
        (name, next_name)
        for (name, layer), (next_name, next_layer) in pairwise(layers)
        if isinstance(layer, nn.Conv2d)
        and isinstance(next_layer, nn.BatchNorm2d)
        and (layer.out_channels, True) == (next_layer.num_features, next_layer.track_running_stats)
    ]


def _fold(network: nn.Module) -> nn.Module:
    for conv_name, norm_name in _pairs(network):
        conv: Any = network.get_submodule(conv_name)
        norm: Any = network.get_submodule(norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        network.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))  # timm's batch norms hold the activation
        is_odd = all(side > 1 and side % 2 for side in conv.kernel_size)
        if isinstance(conv, Conv2dSame) and is_odd and (conv.stride, conv.dilation) == ((2, 2), (1, 1)):
            network.set_submodule(conv_name, _SamePadded(conv))
    return network


class _SamePadded(nn.Module):
    """TensorFlow's padding in a convolution of odd kernel and stride 2, without a padded copy of images of even sides.

    There it adds one pixel more at the end than at the beginning, as does a kernel that begins with zeros.
    """

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv = conv
        self.weight = F.pad(conv.weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b _ _ _"]:
        """The convolution."""
        conv = self.conv
        if x.shape[2] % 2 or x.shape[3] % 2:
            padded: Tensor = conv(x)
            return padded
        padding = [(side - 1) // 2 for side in conv.kernel_size]
        return F.conv2d(x, self.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


def agree(features: list[Tensor], others: list[Tensor]) -> bool:
    """Whether feature maps are the same up to rounding."""
    return all(bool((a - b).norm() <= TOLERANCE * a.norm()) for a, b in zip(features, others, strict=True))
