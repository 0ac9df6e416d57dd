"""One Gaussian of all patches of the middle stage: the method of docs/add_a_method.md."""

from typing import Any

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.nearest import rows_of
from anomaly_zoo.types import Distances, Stages


class OneGaussian(AnomalyModule):
    """Mahalanobis distance of patches to the Gaussian of the support's patches, beside the memory."""

    def __init__(self, backbone: Backbone, **shared: Any) -> None:
        super().__init__(backbone, **shared)
        self.gaussian = Gaussian()

    def fit(self, features: Stages) -> None:
        """Fits the Gaussian."""
        self.gaussian.fit(rows_of(features[self.num_stages // 2]))

    def distances(self, features: Stages) -> Distances:
        """One distance for each patch."""
        stage = features[self.num_stages // 2]
        distance = self.gaussian(rows_of(stage)).sqrt()
        return Distances(patch=[distance.view(len(stage), *stage.shape[2:])])
