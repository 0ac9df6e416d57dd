"""What a network costs: parameters, operations, milliseconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: number of parameters that are not 0.
        macs: multiply-accumulate operations per image, in convolutions, linear layers and attention.
        latency_ms: median milliseconds per batch, warm.
    """

    params: int
    macs: int
    latency_ms: float


@torch.no_grad()
def cost(network: nn.Module, image: Float[Tensor, "b 3 h w"], repeats: int = 20) -> Cost:
    """Counts and times a network on this machine.

    Args:
        network: in evaluation mode, on the images' device.
        image: one batch in [0, 1].
        repeats: timed forward passes, after three untimed ones.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # the network itself, not its folded copy
        network(image[:1])
    params = sum(int(parameter.count_nonzero()) for parameter in _effective_parameters(network))
    times = []
    for repeat in range(repeats + 3):
        start = perf_counter()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        if repeat >= 3:
            times.append(1000 * (perf_counter() - start))
    return Cost(params, counter.get_total_flops() // 2, median(times))


def _effective_parameters(network: nn.Module) -> Iterator[Tensor]:
    """The parameters as they act: a masked weight with its zeros."""
    for module in network.modules():
        if isinstance(module, parametrize.ParametrizationList):
            continue
        yield from module.parameters(recurse=False)
        if parametrize.is_parametrized(module):
            yield from (getattr(module, name) for name in module.parametrizations)  # type: ignore[union-attr]
