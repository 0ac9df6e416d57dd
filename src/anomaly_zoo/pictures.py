"""Pictures for people: an anomaly map in colours over its image, with a colour bar and contours, and sheets of many.

NumPy and Pillow only, so that they are there without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MAX_SIDE_PX = 1024  # overlays of larger images are drawn smaller
TILE_PX = 160
_BAR_PX, _LABEL_PX, _FONT_PX = 14, 62, 12
_FRAMES, _CONTOUR = {True: (214, 40, 40), False: (42, 157, 80), None: (128, 128, 128)}, (255, 255, 255)
_PLACES = np.linspace(0, 1, 6)
_COLOURS = np.array([(20, 16, 80), (38, 84, 180), (60, 170, 170), (240, 220, 90), (240, 120, 40), (180, 10, 20)])


@dataclass(frozen=True)
class Scale:
    """What the colours of anomaly maps mean; the same for all pictures that are compared."""

    level: float  # drawn coldest; for a model, what maps of normal images are like
    threshold: float  # in the middle, and where contours run; for a model, what an anomalous pixel is above

    @property
    def span(self) -> float:
        """From the value drawn coldest to the one drawn hottest."""
        return 2 * max(self.threshold - self.level, 1e-12)


def colour(anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    """Float `h w` to uint8 RGB `h w 3`.

    >>> colour(np.array([[0.0, 2.0]]), Scale(level=0.0, threshold=1.0)).tolist()
    [[[20, 16, 80], [180, 10, 20]]]
    """
    place = np.clip((anomaly_map - scale.level) / scale.span, 0, 1)
    channels = [np.interp(place, _PLACES, _COLOURS[:, channel]) for channel in range(3)]
    return np.asarray(np.stack(channels, axis=-1).round(), dtype=np.uint8)


def blend(image: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> np.ndarray:
    """The colours of a map, half transparent over a uint8 RGB image of its size."""
    return np.asarray((image.astype(np.uint16) + colour(anomaly_map, scale)) // 2, dtype=np.uint8)


def outline(region: np.ndarray, width: int = 2) -> np.ndarray:
    """The pixels just inside the border of a region; bool `h w` in and out."""
    inside = np.pad(region, width, constant_values=True)
    kept = region.copy()
    for shift in range(1, width + 1):
        for axis in (0, 1):
            for step in (-shift, shift):
                kept &= np.roll(inside, step, axis=axis)[width:-width, width:-width]
    return np.asarray(region & ~kept)


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: Scale) -> Image.Image:
    """The map, stretched over the image, contours where it passes the threshold, and the colour bar at the right."""
    picture = _contoured(image, anomaly_map, scale, MAX_SIDE_PX)
    height = max(picture.height, 96)
    canvas = Image.new("RGB", (picture.width + _BAR_PX + _LABEL_PX, height), "white")
    canvas.paste(picture)
    top = scale.level + scale.span
    ramp = np.linspace(top, scale.level, height)[:, None].repeat(_BAR_PX, axis=1)
    canvas.paste(Image.fromarray(colour(ramp, scale)), (picture.width + 4, 0))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT_PX)
    x = picture.width + _BAR_PX + 8
    rows = (0, (height - _FONT_PX) // 2, height - _FONT_PX - 4)
    for value, y in zip((top, scale.threshold, scale.level), rows, strict=True):
        draw.text((x, y), f"{value:.3g}", fill="black", font=font)
    draw.line([(picture.width + 4, height // 2), (x - 2, height // 2)], fill="black")
    return canvas


def tile(
    image: np.ndarray, anomaly_map: np.ndarray, scale: Scale, label: str, is_anomalous: bool | None
) -> Image.Image:
    """A small overlay with a frame in the colour of the decision (grey if there is none) and a line of text below."""
    picture = _contoured(image, anomaly_map, scale, TILE_PX - 8)
    canvas = Image.new("RGB", (TILE_PX, TILE_PX + 18), _FRAMES[is_anomalous])
    canvas.paste(picture, ((TILE_PX - picture.width) // 2, (TILE_PX - picture.height) // 2))
    ImageDraw.Draw(canvas).text((4, TILE_PX), label[-26:], fill="white", font=ImageFont.load_default(_FONT_PX))
    return canvas


def contact_sheet(tiles: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """Tiles in rows."""
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), "white")
    for number, picture in enumerate(tiles):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return sheet


def _contoured(image: np.ndarray, anomaly_map: np.ndarray, scale: Scale, max_side: int) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((max_side, max_side))
    values = Image.fromarray(anomaly_map.astype(np.float32))
    stretched = np.asarray(values.resize(picture.size, Image.Resampling.BILINEAR))
    mixed = blend(np.asarray(picture), stretched, scale)
    mixed[outline(stretched > scale.threshold)] = _CONTOUR
    return Image.fromarray(mixed)
