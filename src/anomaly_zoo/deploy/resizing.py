"""The protocol's resize as tensor operations on images of any size, so that it can be part of an exported graph.

Ours, after the arithmetic of OpenCV, which `data.transforms.resize` calls: the average over the area where a side
shrinks, and linear interpolation with coefficients of 11 bits where it grows. The two agree but for a few pixels in
100,000 that are a tie of rounding, and those differ by 1 of 255.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

Size = int | torch.SymInt
"""A number of pixels: known, or free in an exported graph."""

_ONE = 2048.0  # what OpenCV counts linear coefficients in


class Resize(nn.Module):
    """Resizes images to a square without keeping the aspect ratio.

    Args:
        size: side of the result in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 s s"]:
        """Whole numbers in [0, 255] in and out. A side that shrinks goes first, rounded before the other one grows."""
        size, height, width = self.size, image.shape[1], image.shape[2]
        rows, columns = _length(image[0, :, 0, 0]), _length(image[0, 0, :, 0])
        least_rows, wide = rows.clamp(max=size), columns >= size

        index, weight = _area_taps(rows, least_rows, torch.sym_min(height, size), (height + size - 1) // size + 1)
        taps = image.float()[:, index].flatten(3)  # b y t (w 3)
        high = torch.unflatten(weight[:, None] @ taps, 3, (width, 3)).squeeze(2).movedim(3, 1)
        high = torch.where(wide, high, high.round())

        across = high @ torch.where(wide, _area_matrix(columns, size, width), _linear_matrix(columns, size, width))
        halved = (rows == 2 * size) & (columns == 2 * size)  # OpenCV has code of its own for it, which rounds up
        across = torch.where(wide, torch.where(halved, (across + 0.5).floor(), across.round()), across)

        index, weight = _linear_taps(least_rows, size)  # the identity if the height has shrunk
        parts = (across * (_ONE / 16)).floor()[:, :, index] * (weight * _ONE)[..., None]
        return (((parts / 65536).floor().sum(dim=3) + 2) / 4).floor().clamp(0, 255)


def _length(line: Tensor) -> Float[Tensor, ""]:
    """The number of pixels of a line as a tensor, which a graph computes anew for every input."""
    return torch.ones_like(line, dtype=torch.float64).sum()


def _positions(count: Size, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=like.device)


def _overlap(start: Tensor, end: Tensor, pixel: Tensor) -> Tensor:
    """How much of each pixel [pixel, pixel + 1] lies between start and end."""
    return (torch.minimum(end, pixel + 1) - torch.maximum(start, pixel)).clamp(min=0)


def _area_taps(
    old: Float[Tensor, ""], new: Float[Tensor, ""], count: Size, num_taps: Size
) -> tuple[Int[Tensor, "s t"], Float[Tensor, "s t"]]:
    """The pixels under each of `count` (= `new`) pixels, at most `num_taps` in a row, and their shares."""
    scale = old / new
    start = _positions(count, old)[:, None] * scale
    pixel = start.floor() + _positions(num_taps, old)
    share = _overlap(start, start + scale, pixel) / scale
    return torch.minimum(pixel, old - 1).long(), share.float()


def _area_matrix(old: Float[Tensor, ""], new: int, length: Size) -> Float[Tensor, "w s"]:
    """The same as a matrix from `length` (= `old`) to `new` pixels."""
    scale = old / new
    start = _positions(new, old) * scale
    return (_overlap(start, start + scale, _positions(length, old)[:, None]) / scale).float()


def _linear_source(old: Float[Tensor, ""], new: int) -> Float[Tensor, " s"]:
    """Where the centre of every new pixel lies, in old pixels."""
    return (_positions(new, old) + 0.5) * (old / new) - 0.5


def _linear_taps(old: Float[Tensor, ""], new: int) -> tuple[Int[Tensor, "s 2"], Float[Tensor, "s 2"]]:
    """The two pixels around every new one and their shares; at the border both are the same pixel, as in OpenCV."""
    source = _linear_source(old, new)[:, None]
    pixel = source.floor() + _positions(2, old)
    return torch.minimum(pixel.clamp(min=0), old - 1).long(), _linear_weight(source - pixel)


def _linear_matrix(old: Float[Tensor, ""], new: int, length: Size) -> Float[Tensor, "w s"]:
    source = torch.minimum(_linear_source(old, new).clamp(min=0), old - 1)
    return _linear_weight(source - _positions(length, old)[:, None])


def _linear_weight(distance: Tensor) -> Tensor:
    return (((1 - distance.abs()).clamp(min=0) * _ONE).round() / _ONE).float()
