"""The protocol's resize as tensor operations on images of any size, so that it can be part of an exported graph.

Ours, after the arithmetic of OpenCV, which `data.transforms.resize` calls: the average over the area where a side
shrinks, and linear interpolation with coefficients of 11 bits where it grows. The two agree but for a few pixels in
100,000 that are a tie of rounding, and those differ by 1 of 255.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

Size = int | torch.SymInt  # a number of pixels: known, or free in an exported graph
_ONE = 2048.0  # what OpenCV counts linear coefficients in


class Resize(nn.Module):
    """Resizes images to one shape (height and width in pixels) without keeping the aspect ratio."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 y x"]:
        """Whole numbers in [0, 255] in and out. Sides that shrink go first, rounded before another one grows."""
        (tall, wide), height, width = self.shape, image.shape[1], image.shape[2]
        rows, columns = _length(image[0, :, 0, 0]), _length(image[0, 0, :, 0])
        shrunk = _mean_of_taps(image.float(), *_area_taps(rows, height, tall)).transpose(1, 2)
        shrunk = _mean_of_taps(shrunk, *_area_taps(columns, width, wide))  # b w h 3
        halved = (rows == 2 * tall) & (columns == 2 * wide)  # OpenCV has code of its own for it, which rounds up
        shrunk = torch.where(halved, (shrunk + 0.5).floor(), shrunk.round())

        across = _mean_of_taps(shrunk, *_linear_taps(columns.clamp(max=wide), wide)).permute(0, 3, 2, 1)
        index, weight = _linear_taps(rows.clamp(max=tall), tall)
        parts = (across * (_ONE / 16)).floor()[:, :, index] * (weight * _ONE)[..., None]
        return (((parts / 65536).floor().sum(dim=3) + 2) / 4).floor().clamp(0, 255)


def _length(line: Tensor) -> Float[Tensor, ""]:
    """The number of pixels of a line as a tensor, which a graph computes anew for every input."""
    return torch.ones_like(line, dtype=torch.float64).sum()


def _mean_of_taps(
    image: Float[Tensor, "b m n c"], index: Int[Tensor, "s t"], weight: Float[Tensor, "s t"]
) -> Float[Tensor, "b s n c"]:
    """New lines, each the weighted mean of `t` old ones."""
    taps = image.flatten(2)[:, index]
    return torch.unflatten((weight[:, None] @ taps).squeeze(2), 2, image.shape[2:])


def _positions(count: Size, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=like.device)


def _area_taps(old: Float[Tensor, ""], length: Size, size: int) -> tuple[Int[Tensor, "s t"], Float[Tensor, "s t"]]:
    """The pixels under each of `size` pixels and their shares; each pixel itself if there are no more than `size`."""
    count, num_taps = torch.sym_min(length, size), (length + size - 1) // size + 1
    scale = old / old.clamp(max=size)
    start = _positions(count, old)[:, None] * scale
    pixel = start.floor() + _positions(num_taps, old)
    overlap = (torch.minimum(start + scale, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0)
    return torch.minimum(pixel, old - 1).long(), (overlap / scale).float()


def _linear_taps(old: Float[Tensor, ""], size: int) -> tuple[Int[Tensor, "s 2"], Float[Tensor, "s 2"]]:
    """The two pixels around each of `size` pixels and their shares; at the border both are the same, as in OpenCV."""
    source = ((_positions(size, old) + 0.5) * (old / size) - 0.5)[:, None]
    pixel = source.floor() + _positions(2, old)
    share = ((1 - (source - pixel).abs()) * _ONE).round() / _ONE
    return torch.minimum(pixel.clamp(min=0), old - 1).long(), share.float()
