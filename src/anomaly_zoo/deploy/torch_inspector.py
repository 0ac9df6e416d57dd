"""A model folder as an inspector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.transforms import resize
from anomaly_zoo.deploy.model_folder import Model, copy_of
from anomaly_zoo.deploy.outputs import Inspection
from anomaly_zoo.deploy.pictures import Scale
from anomaly_zoo.nn.tiling import predict_tiles


class TorchInspector:
    """Inspects images as the adapted module does in a run: the same resize, and the same scores.

    Args:
        model: a loaded model folder.
        device: where to compute, such as "cpu" or "cuda".
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model = model
        self.device = torch.device(device)
        self.module = copy_of(model.module).to(self.device)
        self.threshold = model.calibration.threshold
        self.scale = Scale(level=model.calibration.map_level, threshold=model.calibration.map_threshold)

    def read(self, path: Path) -> np.ndarray:
        """Reads a file as uint8 RGB `h w 3`.

        Raises:
            OSError: there is no such file.
            ValueError: it is no readable image.
        """
        return read_image(path)

    @torch.inference_mode()
    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes."""
        resized = np.stack([resize(image, self.model.image_size) for image in images]).transpose(0, 3, 1, 2)
        batch = torch.from_numpy(np.divide(resized, np.float32(255), order="C")).to(self.device)
        tiling = self.model.tiling
        prediction = predict_tiles(self.module, batch, tiling) if tiling else self.module(batch)
        calibration = self.model.calibration
        return [
            Inspection(
                image_score=score,
                p_value=calibration.p_value(score),
                conformal_p_value=calibration.conformal_p_value(score),
                is_anomalous=score > calibration.threshold,
                anomaly_map=anomaly_map,
            )
            for score, anomaly_map in zip(
                prediction.image_score.tolist(), prediction.anomaly_map.float().cpu().numpy(), strict=True
            )
        ]
