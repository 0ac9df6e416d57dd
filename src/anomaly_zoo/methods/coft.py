"""coft: contrastive fine-tuning with cross-instance positive pairs and synthesized negatives.

Liao, Xu, Nguyen, Goodge, Foo: "COFT-AD: COntrastive Fine-Tuning for Few-Shot Anomaly Detection", IEEE TIP 2024
(arXiv 2402.18998). docs/methods/coft.md has the evidence marks and the differences from the paper.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.contrastive import (
    Projector,
    cross_instance_loss,
    infonce_loss,
    negative_pair_loss,
    simsiam_loss,
)
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.synthesis import FAMILIES, check_families, synthesize
from anomaly_zoo.nn.validation import instances
from anomaly_zoo.types import Batch, Distances, Stages


class COFT(AnomalyModule):
    """Tunes a copy of the backbone's tail so that views of normal images agree and synthetic negatives do not.

        L = L_con + cross_instance_weight * L_pp + negative_weight * L_np

    Afterwards the projector is left aside. Own distances: the Mahalanobis distance of an image's embedding to the
    Gaussian of the support's, which is the paper's score (`image`), and, so that there is a map, the distance of tuned
    patches to those of the support (`detail`).

    Args:
        backbone: the tuned copy starts from it.
        steps: optimizer updates; 0 leaves the copy as it is.
        learning_rate: of Adam.
        contrast: L_con, between two views of an image; `none` leaves it out.
        temperature: of `infonce`.
        cross_instance_weight: lambda_pp; 0 leaves L_pp out.
        negative_weight: lambda_np; 0 leaves L_np out.
        margin: cosine under which a synthetic negative is far enough from the normal images.
        negatives: families of synthetic negatives, see `nn/synthesis.py`.
        pretrained: whether the copy starts from the backbone's weights, else from random ones.
        **shared: see `AnomalyModule`.

    Raises:
        ValueError: a number out of range or an unknown family.
    """

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 160,
        learning_rate: float = 1e-4,
        contrast: Literal["simsiam", "infonce", "none"] = "simsiam",
        temperature: float = 0.2,
        cross_instance_weight: float = 1.0,
        negative_weight: float = 1.0,
        margin: float = 0.0,
        negatives: Sequence[str] = tuple(FAMILIES),
        pretrained: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, steps, learning_rate, **shared)
        check_families(negatives)
        if min(cross_instance_weight, negative_weight) < 0:
            raise ValueError(f"{cross_instance_weight=}, {negative_weight=}: need 0 or more.")
        self.contrast = contrast
        self.temperature = temperature
        self.cross_instance_weight = cross_instance_weight
        self.negative_weight = negative_weight
        self.margin = margin
        self.negatives = list(negatives)

        self.pretrained = pretrained
        self.network = backbone.trainable_tail() if pretrained else Backbone(**backbone.spec, weights="none")
        self.projector = Projector(sum(backbone.num_channels))
        self.predictor: nn.Module = Projector(128, 32, 128) if contrast == "simsiam" else nn.Identity()
        self.gaussian = Gaussian()
        self.tuned_memory = PatchMemory(self.num_stages, max_patches=self.max_patches)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Neighbours in the batch are two views of an instance; negatives are made of the first ones."""
        first, second = batch.image[0::2], batch.image[1::2]
        negative, _ = synthesize(first, self.generator, self.negatives)
        image = torch.cat([first, second, negative])
        embedding = _embedding(self._tuned_stages(image, self.backbone.trunk(image)[1]))
        z1, z2, z_negative = self.projector(embedding).chunk(3)
        instance = instances(batch.path[0::2]).to(self.device)
        losses = {
            "con": self._contrast(z1, z2),
            "pp": self.cross_instance_weight * cross_instance_loss(z1, z2, instance),
            "np": self.negative_weight * negative_pair_loss(torch.cat([z1, z2]), z_negative, self.margin),
        }
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()} | {"train/loss": loss})
        return loss

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The frozen stages if there is a memory, then the tuned ones."""
        _, trunk = self.backbone.trunk(image)
        return [*self.memory_features(trunk), *self._tuned_stages(image, trunk)]

    def fit(self, features: Stages) -> None:
        """Fits the Gaussian of the embeddings and the memory of the tuned patches."""
        tuned = features[-self.num_stages :]
        self.gaussian.fit(_embedding(tuned))
        self.tuned_memory.fit(tuned)

    def distances(self, features: Stages) -> Distances:
        """The embedding's Mahalanobis distance, and the tuned patches' distance to their memory."""
        tuned = features[-self.num_stages :]
        return Distances(detail=self.tuned_memory(tuned).patch, image=[self.gaussian(_embedding(tuned)).sqrt()])

    def _tuned_stages(self, image: Float[Tensor, "b 3 h w"], trunk: Stages) -> Stages:
        """A random network has layers of its own before the tail: random early features are not general."""
        stages: Stages = self.network(trunk if self.pretrained else image)
        return stages

    def _contrast(self, z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"]) -> Tensor:
        if self.contrast == "none" or (self.contrast == "infonce" and len(z1) == 1):
            return z1.new_zeros(())
        if self.contrast == "infonce":
            return infonce_loss(z1, z2, self.temperature)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)


def _embedding(features: Stages) -> Float[Tensor, "b d"]:
    """Every stage averaged over its positions, joined and scaled to unit length."""
    return F.normalize(torch.cat([stage.mean(dim=(2, 3)) for stage in features], dim=1), dim=1)
