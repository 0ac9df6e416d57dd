"""A stand-in for a method, whose predictions can be computed by hand."""

import lightning.pytorch as L
from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.types import Batch, Prediction


class Brightness(L.LightningModule):
    """Takes brightness for an anomaly, on a scale far outside [0, 1]; the image score looks at one corner only."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        anomaly_map = 60 + 100 * image.mean(dim=1)
        return Prediction(anomaly_map, anomaly_map[:, :32, :32].flatten(1).mean(dim=1))

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]
        prediction: Prediction = self(batch.image)
        return prediction
