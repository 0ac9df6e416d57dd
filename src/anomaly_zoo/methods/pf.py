"""pf: a pruned copy of the backbone learns to see normal images as the backbone does; it fails on anomalous ones.

Zhang, Suganuma, Okatani: "Network Pruning and Fine-tuning for Few-shot Industrial Image Anomaly Detection", INDIN 2023.
docs/methods/pf.md has the evidence marks and the differences from the paper.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.distillation import discrepancy, distillation_loss
from anomaly_zoo.nn.network import stages_of
from anomaly_zoo.nn.pruning import Criterion, History, check_ratio, prune_channels, replay
from anomaly_zoo.types import Batch, Distances, Stages


class PF(AnomalyModule):
    """Prunes a copy of the backbone, teaches it the backbone's features of normal images, and scores where they differ.

        loss = sum over the stages of the mean of 1 - cos(teacher, student)

    Own distances: the discrepancy of every stage, at unit length (`patch`) and as it is (`detail`).

    Args:
        backbone: the teacher, frozen; the student starts as its copy.
        steps: optimizer updates of the student; 0 leaves it as pruned.
        learning_rate: of Adam.
        pruning_ratio: of the student's hidden channels, 0 to 0.95.
        criterion: which channels are removed, see `nn/pruning.py`.
        pretrained: whether the student starts from the backbone's weights, else from random ones.
        images_per_step: views of support images in a training batch.
        **shared: see `AnomalyModule`.

    Raises:
        ValueError: a number out of range.
    """

    trains_on_batches = False

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 150,
        learning_rate: float = 1e-3,
        pruning_ratio: float = 0.3,
        criterion: Criterion = "l1",
        pretrained: bool = True,
        images_per_step: int = 4,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, steps, learning_rate, **shared)
        check_ratio(pruning_ratio)
        if images_per_step < 1:
            raise ValueError(f"{images_per_step=}: need 1 or more.")
        self.pruning_ratio = pruning_ratio
        self.criterion = criterion
        self.images_per_step = images_per_step
        student = copy.deepcopy(backbone) if pretrained else Backbone(**backbone.spec, weights="none")
        self.network = student.requires_grad_(True)
        self.pruned: list[History] = []
        self._view: Float[Tensor, "n 3 h w"] | None = None
        self._target: Stages = []

    def prepare(self, support: Batch) -> None:
        """Prunes the student, and computes what the teacher sees in the support once."""
        self.pruned = [
            prune_channels(network, self.pruning_ratio, self.criterion, support.image)
            for network in self.network.networks
        ]
        if self.steps:
            trained = [index for index, path in enumerate(support.path) if path not in self.kept_out]
            self._view = support.image[trained]
            self._target = stages_of(self.backbone, self._view)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The distillation loss on views of the support."""
        assert self._view is not None
        chosen = torch.randint(len(self._view), (self.images_per_step,), generator=self.generator).to(self.device)
        loss = distillation_loss([stage[chosen] for stage in self._target], self.network(self._view[chosen]))
        self.log("train/loss", loss)
        return loss

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The teacher's stages, then the student's."""
        teacher, student = self.backbone(image), self.network(image)
        return [*teacher, *student]

    def fit(self, features: Stages) -> None:
        """Nothing is fitted to what is left of the discrepancy; what the training kept is given free."""
        self._view, self._target = None, []

    def distances(self, features: Stages) -> Distances:
        """The discrepancy of teacher and student in every stage."""
        teacher, student = features[: self.num_stages], features[self.num_stages :]
        units = ([F.normalize(stage, dim=1) for stage in stages] for stages in (teacher, student))
        return Distances(patch=discrepancy(*units), detail=discrepancy(teacher, student))

    # Checkpoints: the shapes of the pruned student

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what was pruned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pruned"] = self.pruned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Prunes an untouched copy of the teacher as the saved student was."""
        self.pruned = checkpoint["pruned"]
        self.network = Backbone(**self.backbone_spec, weights="none").requires_grad_(True)
        for network, history in zip(self.network.networks, self.pruned, strict=False):  # none of what never trained
            replay(network, history)
        super().on_load_checkpoint(checkpoint)
