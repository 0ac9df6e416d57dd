"""A method as a newcomer would write it: test_add_a_method.py copies this file into src/anomaly_zoo/methods."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone, Frozen
from anomaly_zoo.nn.features import to_image
from anomaly_zoo.types import Batch, Prediction


class Toy(AnomalyModule):
    """Distance to the support's mean patch after a projection that is trained to draw patches towards their mean.

    Args:
        backbone: stays frozen.
        steps: optimizer updates.
        learning_rate: of Adam.
        length: of a projected patch.
    """

    mean: Tensor

    def __init__(self, backbone: Backbone, steps: int = 2, learning_rate: float = 1e-4, length: int = 32) -> None:
        super().__init__(backbone, steps=steps, learning_rate=learning_rate)
        self.backbone = Frozen(backbone)
        self.head = nn.Conv2d(backbone.num_channels[0], length, 1, bias=False)
        self.register_buffer("mean", torch.zeros(length, 1, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The spread of the projected patches."""
        patches = self._project(batch.image)
        loss = (patches - patches.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        self.log("train/loss", loss)
        return loss

    def calibrate(self, support: Batch) -> None:
        """Fits the mean."""
        self.mean = self._project(support.image).mean(dim=(0, 2, 3))[:, None, None]

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The distance as a map; the image score is its maximum."""
        distance = (self._project(image) - self.mean).norm(dim=1)
        anomaly_map = to_image(distance, (image.shape[2], image.shape[3]))
        return Prediction(anomaly_map, anomaly_map.flatten(1).amax(dim=1))

    def _project(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        patches: Tensor = self.head(self.backbone(image)[0])
        return patches
