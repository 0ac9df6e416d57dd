"""Overlapping tiles of a large image, in which small defects keep their pixels, and one seamless map from theirs."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.types import Prediction


@dataclass(frozen=True)
class Tiling:
    """Square tiles that cover an image, spread evenly, so that neighbours overlap by `overlap_px` or more.

    Raises:
        ValueError: a number out of range.

    >>> Tiling((256, 512), tile_px=256, overlap_px=32).corners
    [(0, 0), (0, 128), (0, 256)]
    """

    shape: tuple[int, int]  # height and width of the image
    tile_px: int  # side of a tile, at most the image's shorter one
    overlap_px: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        (height, width), largest = self.shape, min(self.shape)
        if not 1 <= self.tile_px <= largest:
            raise ValueError(f"tile_px is {self.tile_px}, images have {width}x{height} pixels: choose 1 to {largest}")
        if not 0 <= self.overlap_px < self.tile_px:
            raise ValueError(f"overlap_px is {self.overlap_px}: choose 0 to {self.tile_px - 1}, less than tile_px")

    def _starts(self, length: int) -> list[int]:
        """First pixel of every tile along a side."""
        rest, step = length - self.tile_px, self.tile_px - self.overlap_px
        count = -(-rest // step)  # steps, rounded up
        return [round(rest * i / count) for i in range(count + 1)] if count else [0]

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Upper left corner (row, column) of every tile, row by row."""
        rows, columns = map(self._starts, self.shape)
        return list(itertools.product(rows, columns))

    def split(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c tile tile"]:
        """Cuts images into tiles, image-major: all tiles of the first image, then those of the second ..."""
        side = self.tile_px
        tiles = [image[..., top : top + side, left : left + side] for top, left in self.corners]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def stitch(self, tile_map: Float[Tensor, "n tile tile"]) -> Float[Tensor, "b h w"]:
        """Joins the maps of tiles, in the order of `split`; each counts the less the nearer its border is: no steps."""
        corners, side = self.corners, self.tile_px
        tiles = tile_map.reshape(-1, len(corners), side, side)
        rows, columns = (self._ramp(length) for length in self.shape)
        weight = (rows[:, None] * columns).to(tile_map)
        lowest = tiles.amin(dim=(1, 2, 3))[:, None, None]  # so that a constant stays itself to the last bit
        total = tile_map.new_zeros(len(tiles), *self.shape)
        weights = tile_map.new_zeros(self.shape)
        for number, (top, left) in enumerate(corners):
            total[:, top : top + side, left : left + side] += weight * (tiles[:, number] - lowest)
            weights[top : top + side, left : left + side] += weight
        stitched: Tensor = lowest + total / weights
        return stitched

    def _ramp(self, length: int) -> Float[Tensor, " tile"]:
        """1 inside, falling linearly to the border over the width that neighbours share along a side."""
        starts = self._starts(length)
        shared = self.tile_px - starts[1] if len(starts) > 1 else 0
        pixel = torch.arange(self.tile_px) + 0.5
        return (torch.minimum(pixel, self.tile_px - pixel) / max(shared, 0.5)).clamp(max=1)


def predict_tiles(
    predict: Callable[[Tensor], Prediction], image: Float[Tensor, "b 3 h w"], tiling: Tiling
) -> Prediction:
    """Scores images by their tiles: the map is stitched, and the image score is that of the worst tile.

    `predict` gets no more tiles at once than there are images, so that memory stays bounded.
    """
    parts = [predict(tiles) for tiles in torch.split(tiling.split(image), len(image))]
    tile_score = torch.cat([part.image_score for part in parts]).reshape(len(image), -1)
    return Prediction(tiling.stitch(torch.cat([part.anomaly_map for part in parts])), tile_score.amax(dim=1))


def within_region(prediction: Prediction, region: Tensor) -> Prediction:
    """Gives every pixel outside of the region of interest (bool `b h w`) the lowest score inside it."""
    lowest = prediction.anomaly_map.masked_fill(~region, torch.inf).flatten(1).amin(dim=1)
    return prediction._replace(anomaly_map=torch.where(region, prediction.anomaly_map, lowest[:, None, None]))
