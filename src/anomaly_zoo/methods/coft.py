"""coft: contrastive fine-tuning with cross-instance positive pairs and synthesized negatives.

Liao, Xu, Nguyen, Goodge, Foo: "COFT-AD: COntrastive Fine-Tuning for Few-Shot Anomaly Detection", IEEE TIP 2024
(arXiv 2402.18998). docs/methods/coft.md has the evidence marks and the differences from the paper.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
from anomaly_zoo.nn.features import patch_grid, to_image, to_patches
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.synthesis import FAMILIES, synthesize
from anomaly_zoo.types import Batch, Prediction


class COFT(AnomalyModule):
    """Tunes the backbone so that views of normal images agree and synthetic negatives do not.

        L = L_con + cross_instance_weight * L_pp + negative_weight * L_np

    Afterwards the projector is left aside. The squared Mahalanobis distance of an image's embedding to the Gaussian of
    the support's is the paper's image score; the distance of the patches to a memory of the support's tuned patches is
    our map. The image score is the sum of both, each in units of its spread over the support.

    Args:
        backbone: fine-tuned.
        steps: optimizer updates.
        learning_rate: of Adam.
        support_views: views of every support image that the Gaussian and the memory are fitted on (the paper's N_A).
        contrast: L_con, between two views of an image.
        temperature: of `infonce`.
        cross_instance_weight: lambda_pp; 0 leaves L_pp out.
        negative_weight: lambda_np; 0 leaves L_np out.
        margin: cosine under which a synthetic negative is far enough from the normal images.
        negatives: families of synthetic negatives, see `nn/synthesis.py`.
        embedding_weight: of the embedding's part of the image score, against 1 for the map's maximum.
        max_patches: size of the memory.

    Raises:
        ValueError: a number out of range or an unknown family.
    """

    map_scale: Tensor
    embedding_scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 20,
        learning_rate: float = 1e-4,
        support_views: int = 8,
        contrast: Literal["simsiam", "infonce"] = "simsiam",
        temperature: float = 0.2,
        cross_instance_weight: float = 1.0,
        negative_weight: float = 1.0,
        margin: float = 0.0,
        negatives: Sequence[str] = tuple(FAMILIES),
        embedding_weight: float = 0.1,
        max_patches: int = 4096,
    ) -> None:
        super().__init__(backbone, steps=steps, support_views=support_views, learning_rate=learning_rate)
        unknown = sorted(set(negatives) - set(FAMILIES))
        if unknown or not negatives:
            raise ValueError(f"negatives={list(negatives)}: choose among {', '.join(FAMILIES)}.")
        if min(cross_instance_weight, negative_weight, embedding_weight) < 0 or max_patches < 1:
            raise ValueError(f"{cross_instance_weight=}, {negative_weight=}, {embedding_weight=}, {max_patches=}: too small.")
        self.contrast = contrast
        self.temperature = temperature
        self.cross_instance_weight = cross_instance_weight
        self.negative_weight = negative_weight
        self.margin = margin
        self.negatives = list(negatives)
        self.embedding_weight = embedding_weight
        self.max_patches = max_patches

        length = sum(backbone.num_channels)
        self.projector = Projector(length)
        self.predictor: nn.Module = Projector(128, 32, 128) if contrast == "simsiam" else nn.Identity()
        self.gaussian = Gaussian()
        self.memory = PatchMemory()
        self.register_buffer("map_scale", torch.ones(2))
        self.register_buffer("embedding_scale", torch.ones(2))
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Neighbours in the batch are two views of an instance."""
        first, second = batch.image[0::2], batch.image[1::2]
        negative, _ = synthesize(first, self._generator, self.negatives)
        z1, z2, z_negative = self.projector(self._embed(torch.cat([first, second, negative]))).chunk(3)
        losses = {
            "con": self._contrast(z1, z2),
            "pp": self.cross_instance_weight * cross_instance_loss(z1, z2, _instances(batch.path[0::2])),
            "np": self.negative_weight * negative_pair_loss(torch.cat([z1, z2]), z_negative, self.margin),
        }
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()} | {"train/loss": loss})
        return loss

    def calibrate(self, support: Batch) -> None:
        """Fits the Gaussian and the memory, and the scale of both scores, on the support."""
        features = [self.backbone(images) for images in support.image.split(8)]
        grids = torch.cat([_patches(stages) for stages in features])
        embeddings = torch.cat([_embedding(stages) for stages in features])
        self.gaussian.fit(embeddings)
        distance = self._leave_one_out(grids, _instances(support.path))
        self.map_scale = _location_and_spread(to_image(distance, (support.image.shape[2], support.image.shape[3])))
        self.embedding_scale = _location_and_spread(self.gaussian(embeddings).sqrt()[:, None, None])
        self.memory.fit(to_patches(grids), size=self.max_patches)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The patches' distances as a map; its maximum and the embedding's distance as the image score."""
        features = self.backbone(image)
        grid = _patches(features)
        distance = self.memory(to_patches(grid)).unflatten(0, (len(grid), *grid.shape[2:]))
        anomaly_map = to_image(distance, (image.shape[2], image.shape[3]))
        map_score = (anomaly_map.flatten(1).amax(dim=1) - self.map_scale[0]) / self.map_scale[1]
        embedding_score = (self.gaussian(_embedding(features)).sqrt() - self.embedding_scale[0]) / self.embedding_scale[1]
        return Prediction(anomaly_map, map_score + self.embedding_weight * embedding_score)

    def _embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return _embedding(self.backbone(image))

    def _contrast(self, z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"]) -> Tensor:
        if self.contrast == "infonce":
            return infonce_loss(z1, z2, self.temperature)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)

    def _leave_one_out(
        self, grids: Float[Tensor, "n c h w"], instance: Int[Tensor, " n"]
    ) -> Float[Tensor, "k h w"]:
        """Distances of the support's unaugmented views to the patches of all other instances (of other views if k = 1)."""
        raise NotImplementedError


def _patches(features: list[Tensor]) -> Float[Tensor, "b c y x"]:
    return patch_grid(features, neighbourhood=1)


def _embedding(features: list[Tensor]) -> Float[Tensor, "b d"]:
    """Every stage averaged over its positions, joined and scaled to unit length."""
    return F.normalize(torch.cat([stage.mean(dim=(2, 3)) for stage in features], dim=1), dim=1)


def _instances(paths: list[str]) -> Int[Tensor, " b"]:
    """The number of the image that a view stems from, by its path."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return torch.tensor([numbers[path] for path in paths])
