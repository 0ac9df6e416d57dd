"""Random patches, and the devices that tests of them run on."""

import pytest
import torch
from torch import Tensor

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])


def patches(count: int, length: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed)) + offset
