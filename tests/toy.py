"""A small method that trains, for the tests of what is around a method."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.types import Batch, Distances, Stages


class Toy(AnomalyModule):
    """Distance to the support's mean patch after a projection that is trained to draw patches towards their mean.

    Args:
        backbone: stays frozen.
        steps: optimizer updates.
        learning_rate: of Adam.
        length: of a projected patch.
        support_views: views of every support image.
        memory: whether the memory counts as well.
    """

    mean: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 2,
        learning_rate: float = 1e-4,
        length: int = 32,
        support_views: int = 8,
        memory: bool = False,
    ) -> None:
        super().__init__(backbone, steps, learning_rate, support_views=support_views, memory=memory)
        self.network = nn.Conv2d(backbone.num_channels[0], length, 1, bias=False)
        self.register_buffer("mean", torch.zeros(length, 1, 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The spread of the projected patches."""
        patches = self.network(F.normalize(self.backbone(batch.image)[0], dim=1))
        loss: Tensor = (patches - patches.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        self.log("train/loss", loss)
        return loss

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The frozen stages, then the projection of the finest one."""
        stages: Stages = self.backbone(image)
        return [*stages, self.network(F.normalize(stages[0], dim=1))]

    def fit(self, features: Stages) -> None:
        """Fits the mean."""
        self.mean = features[-1].mean(dim=(0, 2, 3))[:, None, None]

    def distances(self, features: Stages) -> Distances:
        """The distance to the mean."""
        return Distances(patch=[(features[-1] - self.mean).norm(dim=1)])
