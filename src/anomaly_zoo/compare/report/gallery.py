"""Test images, ground truth and the anomaly maps of all methods side by side, from beside their results."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from anomaly_zoo.compare.significance import image_key
from anomaly_zoo.compare.statistics import placements
from anomaly_zoo.pictures import Scale, colour, outline
from anomaly_zoo.results import Result

_MAGENTA = (255, 0, 255)
_QUALITY = 60
_HEAT = Scale(level=0.0, threshold=127.5)  # maps have 8 bits


class Tile(NamedTuple):
    """What one run left of one image."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "s s"]
    anomaly_map: UInt8[np.ndarray, "s s"]


@dataclass(frozen=True)
class Row:
    """One image in the gallery. Pictures are data URIs."""

    name: str
    defect: str  # empty for a normal image
    image: str
    truth: str | None  # None where there is nothing to outline
    maps: list[tuple[str, str | None, float]]  # method, map, share of images of the other kind on the wrong side
    miss: float  # mean of these shares


def read(store: Path, run: Result) -> dict[str, Tile]:
    """The gallery of a run by `test/<defect>/<file>`; empty where there is none."""
    folder = run.path_in(store).with_suffix("") / "gallery"
    if not (folder / "index.json").is_file():
        return {}
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
        names, size = index["paths"], (index["height_px"], index["width_px"])
        sheets = [_sheet(folder / name, size, len(names)) for name in ("images.jpg", "masks.png", "maps.png")]
    except (ValueError, KeyError, OSError) as error:
        hint = "delete the folder to leave these pictures out, or run it again"
        raise ValueError(f"{folder} is damaged ({error}): {hint}") from error
    tiles = zip(*sheets, strict=True)
    return {name: Tile(image, mask > 0, heat) for name, (image, mask, heat) in zip(names, tiles, strict=True)}


def rows(store: Path, runs: dict[str, Result], num_rows: int) -> list[Row]:
    """The gallery of one category, worst misses first; of every method one run, all on the same test images."""
    tiles = {method: read(store, run) for method, run in runs.items()}
    misses = {method: shares(run) for method, run in runs.items()}
    entries = []
    for name in {name for found in tiles.values() for name in found}:
        have = {method: found[name] for method, found in tiles.items() if name in found and name in misses[method]}
        if have:
            entries.append((-float(np.mean([misses[method][name] for method in have])), name, have))
    found = []
    for miss, name, have in sorted(entries, key=lambda entry: entry[:2])[:num_rows]:
        tile, kind = next(iter(have.values())), name.split("/")[-2]
        drawn = {method: _uri(heat(one)) for method, one in have.items()}
        maps = [(method, drawn.get(method), misses[method].get(name, 0.0)) for method in runs]
        truth = _uri(outlined(tile)) if tile.mask.any() else None
        found.append(Row(name, "" if kind == "good" else kind, _uri(tile.image), truth, maps, -miss))
    return found


def shares(run: Result) -> dict[str, float]:
    """For every image the share of images of the other kind on its wrong side (0 is faultless); ties count half."""
    label = np.array([image["label"] for image in run.images], dtype=bool)
    wrong = 1 - placements(np.array([[image["score"] for image in run.images]], dtype=np.float64), label)
    found = np.zeros(len(label))
    if wrong.size:
        found[label], found[~label] = wrong.mean(axis=1), wrong.mean(axis=0)
    return dict(zip((image_key(image["path"]) for image in run.images), found.tolist(), strict=True))


def outlined(tile: Tile) -> UInt8[np.ndarray, "h w 3"]:
    """The image with the border of its ground truth in magenta, two pixels wide."""
    picture: UInt8[np.ndarray, "h w 3"] = tile.image.copy()
    picture[outline(tile.mask)] = _MAGENTA
    return picture


def heat(tile: Tile) -> UInt8[np.ndarray, "h w 3"]:
    """The anomaly map in colour over the image in grey."""
    grey = tile.image.mean(axis=2, keepdims=True)
    return np.asarray(0.3 * grey + 0.7 * colour(tile.anomaly_map, _HEAT), dtype=np.uint8)


def _sheet(file: Path, size: tuple[int, int], count: int) -> np.ndarray:
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    height, width = size
    if pixels.shape[:2] != (height * count, width):
        has = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise ValueError(f"{file.name} is {has}, not {count} tiles of {width} x {height}")
    return np.asarray(pixels.reshape(count, height, width, *pixels.shape[2:]))


def _uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
