"""The region of interest of a category: where the product is, so that whatever happens around it is no anomaly.

Either one for all images, `<category>/region.json`, polygons in parts of the image's width and height (see `_EXAMPLE`),
or a foreground mask for every image, in a folder with the tree of the images: `<category>/region/train/good/000.png`,
`<category>/region/test/scratch/003.png`. Without either, the whole image counts.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_mask

POLYGON_FILE = "region.json"
MASK_FOLDER = "region"

_PAINT = 128  # middle grey: the backbones see it as nearly zero
_EXAMPLE = '{"polygons": [[[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]]]}, with x and y from 0 to 1'


class Regions:
    """The regions of interest of a category, if any `exist`; ValueError if its polygon file is wrong or superfluous."""

    def __init__(self, category: Path) -> None:
        self.category = category
        file, folder = category / POLYGON_FILE, category / MASK_FOLDER
        self.polygons = _read_polygons(file) if file.is_file() else []
        self.exist = bool(self.polygons) or folder.is_dir()
        if self.polygons and folder.is_dir():
            raise ValueError(f"{category} has both {POLYGON_FILE} and the folder {MASK_FOLDER}: keep one of them")
        self._masks: dict[Path, dict[str, Path]] = {}
        self._filled = np.zeros((0, 0), dtype=bool)  # the polygons in the size of the last image

    def mask(self, image_path: Path, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
        """True where the product is; ValueError if the image has no mask, one of another size or an empty one."""
        if self.polygons:
            if self._filled.shape != (height, width):
                self._filled = _fill(self.polygons, height, width)
            source, region = self.category / POLYGON_FILE, self._filled
        else:
            source = self._mask_path(image_path)
            region = read_mask(source)
        check_region(region, source, image_path, height, width)
        return region

    def _mask_path(self, image_path: Path) -> Path:
        """The foreground mask of an image."""
        folder = self.category / MASK_FOLDER / image_path.parent.relative_to(self.category)
        if folder not in self._masks:
            self._masks[folder] = {path.stem: path for path in image_files(folder)}
        found = self._masks[folder].get(f"{image_path.stem}_mask", self._masks[folder].get(image_path.stem))
        if found is None:
            hint = f"(or move {self.category / MASK_FOLDER} away to let every pixel count)"
            raise ValueError(f"{image_path} has no region: add {folder / f'{image_path.stem}.png'} {hint}")
        return found


def check_region(region: Bool[np.ndarray, "h w"], source: Path, image_path: Path, height: int, width: int) -> None:
    """Refuses a region, read from `source`, that is empty or has another size than its image."""
    if region.shape != (height, width):
        found = f"the region {source} has {region.shape[1]}x{region.shape[0]} pixels"
        needed = f"its image {image_path} has {width}x{height}: save it in the size of the image"
        raise ValueError(f"{found}, but {needed}")
    if not region.any():
        raise ValueError(f"the region {source} holds no pixel of {image_path}: nothing of the image would count")


def paint_outside(image: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Paints everything outside of the region in one grey, so that no method can learn or score it."""
    return np.where(region[..., None], image, np.uint8(_PAINT))


def _fill(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Pixels whose centre is inside any of the polygons (OpenCV would add those that an edge only touches)."""
    region = np.zeros((height, width), dtype=bool)
    rows = (np.arange(height) + 0.5)[:, None]
    for polygon in polygons:
        start = polygon * (width, height)
        end = np.roll(start, -1, axis=0)
        rise = end[:, 1] - start[:, 1]
        crossing = start[:, 0] + (rows - start[:, 1]) * (end[:, 0] - start[:, 0]) / np.where(rise == 0, 1, rise)
        row, edge = np.nonzero((start[:, 1] > rows) != (end[:, 1] > rows))
        edges_left = np.zeros((height, width + 1), dtype=np.int32)
        np.add.at(edges_left, (row, np.ceil(crossing[row, edge] - 0.5).clip(0, width).astype(int)), 1)
        region |= edges_left.cumsum(axis=1)[:, :width] % 2 == 1
    return region


def _read_polygons(file: Path) -> list[np.ndarray]:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors put a mark first
        polygons = [[(float(x), float(y)) for x, y in polygon] for polygon in content["polygons"]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is no polygon file ({type(error).__name__}: {error}): write {_EXAMPLE}") from error
    numbers = [number for polygon in polygons for corner in polygon for number in corner]
    if not polygons or min(map(len, polygons)) < 3 or not all(math.isfinite(n) and 0 <= n <= 1 for n in numbers):
        raise ValueError(f"{file} needs polygons of 3 corners or more, inside the image: write {_EXAMPLE}")
    return [np.array(polygon) for polygon in polygons]
