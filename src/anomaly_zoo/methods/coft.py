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
from anomaly_zoo.nn.memory import PatchMemory, nearest_distance
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

    map_spread: Tensor
    embedding_spread: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 10,
        learning_rate: float = 3e-5,
        support_views: int = 8,
        contrast: Literal["simsiam", "infonce"] = "simsiam",
        temperature: float = 0.2,
        cross_instance_weight: float = 1.0,
        negative_weight: float = 1.0,
        margin: float = 0.0,
        negatives: Sequence[str] = tuple(FAMILIES),
        embedding_weight: float = 0.03,
        max_patches: int = 4096,
    ) -> None:
        super().__init__(backbone, steps=steps, support_views=support_views, learning_rate=learning_rate)
        unknown = sorted(set(negatives) - set(FAMILIES))
        if unknown or not negatives:
            raise ValueError(f"negatives={list(negatives)}: choose among {', '.join(FAMILIES)}.")
        if min(cross_instance_weight, negative_weight, embedding_weight) < 0 or max_patches < 1:
            raise ValueError(
                f"{cross_instance_weight=}, {negative_weight=}, {embedding_weight=}, {max_patches=}: too small."
            )
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
        self.register_buffer("map_spread", torch.ones(()))
        self.register_buffer("embedding_spread", torch.ones(()))
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
        """Fits the Gaussian and the memory, and the spread of both scores, on the support."""
        features = [self.backbone(images) for images in torch.split(support.image, 8)]
        grid = torch.cat([patch_grid(stages) for stages in features])
        embedding = torch.cat([_embedding(stages) for stages in features])
        self.map_spread, self.embedding_spread = self._held_out_spread(grid, embedding, _instances(support.path))
        self.gaussian.fit(embedding)
        self.memory.fit(to_patches(grid), size=self.max_patches)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The patches' distances as a map; their maximum and the embedding's distance as the image score."""
        features = self.backbone(image)
        grid = patch_grid(features)
        distance = self.memory(to_patches(grid)).unflatten(0, (len(grid), *grid.shape[2:]))
        map_score = distance.flatten(1).amax(dim=1) / self.map_spread
        embedding_score = self.gaussian(_embedding(features)).sqrt() / self.embedding_spread
        anomaly_map = to_image(distance, (image.shape[2], image.shape[3]))
        return Prediction(anomaly_map, map_score + self.embedding_weight * embedding_score)

    def _held_out_spread(
        self, grid: Float[Tensor, "n c y x"], embedding: Float[Tensor, "n d"], instance: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean distance, by patches and by embedding, of support images to all others (to its other views if k = 1)."""
        groups = instance if len(torch.unique(instance)) > 1 else torch.arange(len(instance))
        largest, embedded = [], []
        for held_out in torch.unique(groups)[:8]:
            out = (groups == held_out).nonzero()[:1, 0]
            rest = groups != held_out
            if not rest.any():  # a single view: nothing to compare with
                return torch.ones(()), torch.ones(())
            others = to_patches(grid[rest])
            sample = others[:: max(1, len(others) // self.max_patches)].contiguous()
            largest.append(nearest_distance(to_patches(grid[out]), sample).amax())
            gaussian = Gaussian().to(grid)
            gaussian.fit(embedding[rest])
            embedded.append(gaussian(embedding[out]).sqrt().squeeze())
        return torch.stack(largest).mean(), torch.stack(embedded).mean()

    def _embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return _embedding(self.backbone(image))

    def _contrast(self, z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"]) -> Tensor:
        if self.contrast == "infonce":
            return infonce_loss(z1, z2, self.temperature)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)


def _embedding(features: list[Tensor]) -> Float[Tensor, "b d"]:
    """Every stage averaged over its positions, joined and scaled to unit length."""
    return F.normalize(torch.cat([stage.mean(dim=(2, 3)) for stage in features], dim=1), dim=1)


def _instances(paths: list[str]) -> Int[Tensor, " b"]:
    """The number of the image that a view stems from, by its path."""
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return torch.tensor([numbers[path] for path in paths])
