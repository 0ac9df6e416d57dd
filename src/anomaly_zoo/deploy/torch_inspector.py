"""A model folder as an inspector."""

from collections.abc import Sequence

import numpy as np
import torch

from anomaly_zoo.data.transforms import resize
from anomaly_zoo.deploy.inspecting import Inspection, Inspector, checked
from anomaly_zoo.deploy.model_folder import Model, copy_of
from anomaly_zoo.nn.tiling import predict_tiles


class TorchInspector(Inspector):
    """Inspects images on a device as the adapted module does in a run: the same resize, and the same scores."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        super().__init__(model.calibration, model.warnings)
        self.model = model
        try:
            self.device = torch.device(device)
            self.module = copy_of(model.module).to(self.device)
        except (RuntimeError, AssertionError) as error:  # both mean that there is no such device, or that it is full
            raise ValueError(f"--device {device} cannot be used ({str(error).splitlines()[0]}): try cpu.") from None

    @torch.inference_mode()
    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes."""
        if not (images := checked(images)):
            return []
        resized = np.stack([resize(image, self.model.image_shape) for image in images]).transpose(0, 3, 1, 2)
        batch = torch.from_numpy(np.divide(resized, np.float32(255), order="C")).to(self.device)
        tiling, calibration = self.model.tiling, self.calibration
        anomaly_map, image_score = predict_tiles(self.module, batch, tiling) if tiling else self.module(batch)
        scores, maps = image_score.tolist(), anomaly_map.float().cpu().numpy()
        p_values = [(calibration.p_value(score), calibration.conformal_p_value(score)) for score in scores]
        found = zip(scores, p_values, maps, strict=True)
        return [Inspection(score, *p, self.is_above(score), values) for score, p, values in found]
