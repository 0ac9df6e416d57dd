"""Pictures of a few test images: people look at them before they read numbers."""

from collections import Counter
from pathlib import Path

import cv2
import lightning.pytorch as L
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from anomaly_zoo.types import Batch, Prediction


class VisualizationCallback(L.Callback):
    """Writes `<defect>_<name>.png` (image, ground truth, anomaly map) for the first test images of every kind.

    Attributes:
        files: what was written by the last test.

    Args:
        folder: where to; made when needed.
        num_images: pictures per defect, and of normal images.
    """

    files: list[Path]

    def __init__(self, folder: Path, num_images: int = 2) -> None:
        self.folder = folder
        self.num_images = num_images

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts afresh."""
        self._seen: Counter[str] = Counter()
        self._chosen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Prediction, batch: Batch, *args: int
    ) -> None:
        """Keeps the first images of every defect."""
        for path, image, mask, anomaly_map in zip(
            map(Path, batch.path), batch.image, batch.mask, outputs.anomaly_map, strict=True
        ):
            self._seen[path.parent.name] += 1
            if self._seen[path.parent.name] <= self.num_images:
                # Copies, since a view would keep its whole batch
                chosen = image.cpu().clone(), mask.cpu().clone(), anomaly_map.cpu().clone()
                self._chosen[f"{path.parent.name}_{path.stem}"] = chosen

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws them all in one colour scale, so that they can be compared."""
        self.files = []
        if not trainer.is_global_zero or not self._chosen:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        scores = np.stack([anomaly_map.numpy() for *_, anomaly_map in self._chosen.values()])
        lowest, highest = np.quantile(scores, [0.02, 0.998])
        for name, (image, mask, anomaly_map) in self._chosen.items():
            picture = panel(image, mask, (anomaly_map - lowest) / max(highest - lowest, 1e-12))
            file = self.folder / f"{name}.png"
            file.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
            self.files.append(file)


def panel(
    image: Float[Tensor, "3 h w"], mask: Tensor, anomaly_map: Float[Tensor, "h w"]
) -> UInt8[np.ndarray, "h three_w 3"]:
    """Image, image with the outline of its ground truth, and the anomaly map over the image, side by side.

    Args:
        image: in [0, 1].
        mask: bool `h w`, True where anomalous.
        anomaly_map: 0 and below is drawn coldest, 1 and above hottest.
    """
    picture = np.ascontiguousarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    outlines, _ = cv2.findContours(mask.numpy().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    truth = cv2.drawContours(picture.copy(), outlines, -1, (0, 255, 0), 2)
    heat = cv2.applyColorMap((anomaly_map.clamp(0, 1).numpy() * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    overlay = cv2.addWeighted(picture, 0.5, np.ascontiguousarray(heat), 0.5, 0)
    return np.concatenate([picture, truth, overlay], axis=1)
