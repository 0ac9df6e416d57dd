"""Pictures of a few test images: people look at them before they read numbers.

For the eyes and for W&B, panels of the first images of every kind. For the report of `compare`, a bounded gallery: the
same images whatever the method, seed and shots, small and with 8 bits, so that maps can be set side by side.
"""

import hashlib
import json
from collections import Counter, defaultdict
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as L
import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from anomaly_zoo.files import write_whole
from anomaly_zoo.pictures import Scale, blend, outline
from anomaly_zoo.types import Batch, Prediction

_TRUTH = (0, 255, 0)


class VisualizationCallback(L.Callback):
    """Writes `<defect>_<name>.png` (image, ground truth, anomaly map) for the first test images of every kind.

    Beside the folder it writes a gallery of `num_maps` images (none for 0), see `write_gallery`; its tiles have as many
    pixels as a square of side `map_size`.
    """

    files: list[Path]  # the panels that the last test wrote

    def __init__(self, folder: Path, num_images: int = 2, num_maps: int = 24, map_size: int = 128) -> None:
        self.folder = folder
        self.num_images = num_images
        self.num_maps = num_maps
        self.map_size = map_size

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts afresh."""
        self._seen: Counter[str] = Counter()
        self._chosen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._gallery: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Prediction, batch: Batch, *args: int
    ) -> None:
        """Keeps the first images of every defect, and what may be in the gallery."""
        for path, image, mask, anomaly_map in zip(
            map(Path, batch.path), batch.image, batch.mask, outputs.anomaly_map, strict=True
        ):
            self._seen[path.parent.name] += 1
            if self._seen[path.parent.name] <= self.num_images:
                # Copies, since a view would keep its whole batch
                chosen = image.cpu().clone(), mask.cpu().clone(), anomaly_map.cpu().clone()
                self._chosen[f"{path.parent.name}_{path.stem}"] = chosen
            self._consider(path, image, mask, anomaly_map)

    def _consider(self, path: Path, image: Tensor, mask: Tensor, anomaly_map: Tensor) -> None:
        """Keeps the image if its name's hash is among the lowest of its kind: a choice that no score can change."""
        kept = self._gallery[path.parent.name]
        key = hashlib.sha256("/".join(path.parts[-3:]).encode()).hexdigest()
        if len(kept) >= self.num_maps:
            if not kept or key > max(kept):
                return
            del kept[max(kept)]
        shrink = self.map_size / (image.shape[1] * image.shape[2]) ** 0.5
        size = round(image.shape[2] * shrink), round(image.shape[1] * shrink)
        pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        kept[key] = {
            "path": "/".join(path.parts[-3:]),
            "image": cv2.resize(pixels, size, interpolation=cv2.INTER_AREA),
            "mask": cv2.resize(mask.cpu().numpy().astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST),
            "map": cv2.resize(anomaly_map.float().cpu().numpy(), size, interpolation=cv2.INTER_AREA),
        }

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws them all in one colour scale, so that they can be compared."""
        self.files = []
        if not trainer.is_global_zero or not self._chosen:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        scores = np.stack([anomaly_map.numpy() for *_, anomaly_map in self._chosen.values()])
        lowest, highest = (float(value) for value in np.quantile(scores, [0.02, 0.998]))
        scale = Scale(lowest, (lowest + highest) / 2)
        for name, (image, mask, anomaly_map) in self._chosen.items():
            self.files.append(self.folder / f"{name}.png")
            picture = panel(image, mask, anomaly_map, scale)
            self.files[-1].write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
        in_turn = zip_longest(*([kind[key] for key in sorted(kind)] for kind in self._gallery.values()))
        tiles = [tile for tile in chain.from_iterable(in_turn) if tile is not None][: self.num_maps]
        if tiles:
            write_gallery(self.folder.parent / "gallery", tiles)


def write_gallery(folder: Path, tiles: list[dict[str, Any]]) -> None:
    """Writes contact sheets, one tile below the other: `images.jpg`, `masks.png`, `maps.png`, and `index.json`.

    Maps have 8 bits: 0 is `low` of the index and below, 255 is `high` and above, which are their quantiles 0.02 and
    0.998. The index is written last, so that where it is, the sheets are whole.
    """
    maps = np.stack([tile["map"] for tile in tiles])
    low, high = (float(value) for value in np.quantile(maps, [0.02, 0.998]))
    grey = (np.clip((maps - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)
    images = np.concatenate([tile["image"] for tile in tiles])[..., ::-1]
    write_whole(folder / "images.jpg", cv2.imencode(".jpg", images, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    write_whole(folder / "masks.png", cv2.imencode(".png", np.concatenate([t["mask"] for t in tiles]))[1].tobytes())
    write_whole(folder / "maps.png", cv2.imencode(".png", np.concatenate(list(grey)))[1].tobytes())
    (_, height, width), paths = grey.shape, [tile["path"] for tile in tiles]
    index = {"height_px": height, "width_px": width, "low": low, "high": high, "paths": paths}
    write_whole(folder / "index.json", (json.dumps(index, indent=1) + "\n").encode())


def panel(
    image: Float[Tensor, "3 h w"], mask: Bool[Tensor, "_ _"], anomaly_map: Float[Tensor, "h w"], scale: Scale
) -> UInt8[np.ndarray, "h three_w 3"]:
    """Image in [0, 1], image with the outline of its ground truth, and anomaly map over the image, side by side."""
    picture = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    truth = picture.copy()
    shown = cv2.resize(mask.numpy().astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
    truth[outline(shown)] = _TRUTH
    return np.concatenate([picture, truth, blend(picture, anomaly_map.numpy(), scale)], axis=1)
