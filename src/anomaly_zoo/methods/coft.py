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

from anomaly_zoo.module import AnomalyModule, Orientations
from anomaly_zoo.nn.backbone import Backbone, stages_of
from anomaly_zoo.nn.contrastive import (
    Projector,
    cross_instance_loss,
    infonce_loss,
    negative_pair_loss,
    simsiam_loss,
)
from anomaly_zoo.nn.features import join, peak, to_image, unit_patches
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.nearest import distance_to_sample
from anomaly_zoo.nn.patch_pairs import patch_losses
from anomaly_zoo.nn.synthesis import FAMILIES, synthesize
from anomaly_zoo.nn.validation import SupportStop, held_out_folds, hold_out, instances, separation
from anomaly_zoo.types import Batch, Prediction

NUM_RAW_STAGES = 2  # the finest ones, where the length of a feature shows faint defects
MAX_HELD_OUT = 8
NUM_COMPARED = 2048  # patches of the other images
MIN_SPREAD = 1e-6


class COFT(AnomalyModule):
    """Tunes the backbone so that views of normal images agree and synthetic negatives do not.

        L = L_con + cross_instance_weight * L_pp + negative_weight * L_np

    Afterwards the projector is left aside. The Mahalanobis distance of an image's embedding to the Gaussian of the
    support's is the paper's image score. Our map sums the distances of the tuned patches to memories of the support's,
    of all stages at unit length and of the finest ones as they are. The image score is how far the highest distances at
    unit length stand out (`peak`) plus a part of the embedding's. Each distance counts in units of what held-out
    support images have. The training ends, and the best state is restored, by how well the same distances tell support
    images that are held out from synthetic negatives made of them.

    Args:
        backbone: fine-tuned but for what comes before its stages.
        steps: at most as many optimizer updates; 0 is the frozen backbone.
        learning_rate: of Adam.
        support_views: views of every support image that the Gaussian and the memory are fitted on (the paper's N_A).
        orientations: of the views, see `AnomalyModule`.
        contrast: L_con, between two views of an image; `none` leaves it out.
        temperature: of `infonce`.
        cross_instance_weight: lambda_pp; 0 leaves L_pp out.
        negative_weight: lambda_np; 0 leaves L_np out.
        margin: cosine under which a synthetic negative is far enough from the normal images.
        patch_loss_weight: of the same losses on patches, with the masks of the negatives; 0 leaves them out.
        negatives: families of synthetic negatives, see `nn/synthesis.py`.
        check_every: steps from one look at the held-out images to the next.
        patience: looks without a gain that end the training; 0 holds nothing out and keeps the last state.
        patch_weight: of the patches' highest distances in the image score.
        embedding_weight: of the embedding's distance in the image score.
        max_patches: of every stage that a memory keeps.

    Raises:
        ValueError: a number out of range or an unknown family.
    """

    patch_spread: Tensor
    embedding_spread: Tensor
    stage_spread: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 10,
        learning_rate: float = 1e-5,
        support_views: int = 8,
        orientations: Orientations = "found",
        contrast: Literal["simsiam", "infonce", "none"] = "simsiam",
        temperature: float = 0.2,
        cross_instance_weight: float = 1.0,
        negative_weight: float = 1.0,
        margin: float = 0.0,
        patch_loss_weight: float = 0.0,
        negatives: Sequence[str] = tuple(FAMILIES),
        check_every: int = 5,
        patience: int = 1,
        patch_weight: float = 1.0,
        embedding_weight: float = 0.01,
        max_patches: int = 8192,
    ) -> None:
        super().__init__(backbone, steps, support_views, learning_rate, orientations)
        unknown = sorted(set(negatives) - set(FAMILIES))
        if unknown or not negatives:
            raise ValueError(f"negatives={list(negatives)}: choose among {', '.join(FAMILIES)}.")
        weights = (cross_instance_weight, negative_weight, patch_loss_weight, patch_weight, embedding_weight)
        if min(weights) < 0 or max_patches < 1:
            raise ValueError(f"weights {weights}, {max_patches=}: need 0 or more, and 1 or more.")
        self.contrast = contrast
        self.temperature = temperature
        self.cross_instance_weight = cross_instance_weight
        self.negative_weight = negative_weight
        self.margin = margin
        self.patch_loss_weight = patch_loss_weight
        self.negatives = list(negatives)
        self.patch_weight = patch_weight
        self.embedding_weight = embedding_weight
        self.max_patches = max_patches

        backbone.freeze_early_stages()
        length = sum(backbone.num_channels)
        self.projector = Projector(length)
        self.predictor: nn.Module = Projector(128, 32, 128) if contrast == "simsiam" else nn.Identity()
        self.gaussian = Gaussian()
        self.num_raw = min(NUM_RAW_STAGES, len(backbone.stages))
        self.memory = PatchMemory(len(backbone.stages), self.num_raw)
        self.register_buffer("patch_spread", torch.ones(()))
        self.register_buffer("embedding_spread", torch.ones(()))
        self.register_buffer("stage_spread", torch.ones(len(backbone.stages) + self.num_raw))
        self.stop = SupportStop(check_every, patience)
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def prepare(self, support: Batch) -> None:
        """Sets images aside for validation."""
        if self.steps and self.stop.patience:
            self.stop.held_out = hold_out(support, self._one_batch_per_family)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Neighbours in the batch are two views of an instance; those of held-out ones teach nothing."""
        if self.stop.is_due(self.global_step):
            self.log("validation/auroc", self._check())
            if self.stop.is_patience_spent:
                self.trainer.should_stop = True
        held_out = self.stop.held_out.paths if self.stop.held_out else frozenset()
        trained = [number for number, path in enumerate(batch.path[0::2]) if path not in held_out]
        chosen = trained or [0]  # held-out images alone teach nothing
        first, second = batch.image[0::2][chosen], batch.image[1::2][chosen]
        negative, mask = synthesize(first, self._generator, self.negatives)
        stages = self.backbone(torch.cat([first, second, negative]))
        z1, z2, z_negative = self.projector(_embedding(stages)).chunk(3)
        instance = instances(batch.path[0::2])[chosen].to(self.device)
        losses = {
            "con": self._contrast(z1, z2),
            "pp": self.cross_instance_weight * cross_instance_loss(z1, z2, instance),
            "np": self.negative_weight * negative_pair_loss(torch.cat([z1, z2]), z_negative, self.margin),
        }
        if self.patch_loss_weight:
            losses["patches"] = self.patch_loss_weight * self._patch_loss(stages, mask, instance)
        loss = torch.stack(list(losses.values())).sum() * bool(trained)
        self.log_dict({f"train/{name}": value for name, value in losses.items()} | {"train/loss": loss})
        return loss

    def calibrate(self, support: Batch) -> None:
        """Restores the best state; fits the Gaussian, the memories and the spread of every distance to the support."""
        if self.stop.held_out is not None:
            if not self.stop.is_patience_spent:
                self._check()
            self.stop.restore(self.backbone)
        stages = stages_of(self.backbone, support.image)
        self.patch_spread, self.embedding_spread, self.stage_spread = self._held_out_spread(
            stages, instances(support.path)
        )
        self.gaussian.fit(_embedding(stages))
        self.memory.fit(stages, self.max_patches)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The patches' distances as a map; the peak of those at unit length and the embedding's as the image score."""
        features = self.backbone(image)
        unit, raw = self.memory(features)
        distance = join([stage / spread for stage, spread in zip(unit + raw, self.stage_spread, strict=True)])
        patch_score = peak(join(unit)) / self.patch_spread
        embedding_score = self.gaussian(_embedding(features)).sqrt() / self.embedding_spread
        anomaly_map = to_image(distance, (image.shape[2], image.shape[3]))
        return Prediction(anomaly_map, self.patch_weight * patch_score + self.embedding_weight * embedding_score)

    @torch.no_grad()
    def _check(self) -> float:
        """How well distances to the other images tell held-out images from synthetic negatives, by both scores."""
        held_out = self.stop.held_out
        assert held_out is not None
        others = stages_of(self.backbone, held_out.fitted)
        gaussian = Gaussian().to(self.device)
        gaussian.fit(_embedding(others))

        def scores(image: Tensor) -> tuple[Tensor, Tensor]:
            stages = stages_of(self.backbone, image)
            pairs = zip(unit_patches(stages), unit_patches(others), strict=True)
            patch_score = peak(join([distance_to_sample(stage, other) for stage, other in pairs]))
            return patch_score, gaussian(_embedding(stages))

        normal = scores(held_out.normal)
        by_family = [scores(family) for family in held_out.anomalous]
        auroc = torch.stack([separation(n, a) for family in by_family for n, a in zip(normal, family, strict=True)])
        return self.stop.note(self.backbone, self.global_step, auroc)

    def _one_batch_per_family(self, normal: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "f m 3 h w"]:
        return torch.stack([FAMILIES[family](normal, self._generator)[0] for family in self.negatives])

    def _held_out_spread(
        self, stages: list[Float[Tensor, "n _ _ _"]], instance: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, " s"]]:
        """How far support images are from all others (from their other views if k = 1): the units of the scores.

        Returns:
            Means over the held-out images: of the peak of the joined distances at unit length, of the embedding's
            distance, and of the patch distance in every stage at unit length and in every raw one.
        """
        folds = held_out_folds(instance, MAX_HELD_OUT)
        if not folds:  # a single view: nothing to compare with
            return self.patch_spread, self.embedding_spread, self.stage_spread
        memory = PatchMemory(len(stages), self.num_raw).to(self.device)
        peaks, embedded, by_stage = [], [], []
        for held_out in folds:
            out, rest = held_out.nonzero()[:1, 0], ~held_out
            gaussian = Gaussian().to(self.device)
            gaussian.fit(_embedding([stage[rest] for stage in stages]))
            memory.fit([stage[rest] for stage in stages], NUM_COMPARED, num_candidates=NUM_COMPARED)
            unit, raw = memory([stage[out] for stage in stages])
            peaks.append(peak(join(unit)).squeeze())
            embedded.append(gaussian(_embedding([stage[out] for stage in stages])).sqrt().squeeze())
            by_stage.append(torch.stack([distance.mean() for distance in unit + raw]))
        patch, embedding, stage = (
            torch.stack(d).mean(dim=0).clamp(min=MIN_SPREAD) for d in (peaks, embedded, by_stage)
        )
        return patch, embedding, stage

    def _patch_loss(self, stages: list[Tensor], mask: Tensor, instance: Tensor) -> Tensor:
        """The three losses on the patches of first views and of the negatives made of them, mean over the stages."""
        by_stage = []
        for stage in stages:
            first, _, negative = stage.chunk(3)
            con, pp, np = patch_losses(first, negative, mask, instance, self.margin)
            by_stage.append(con + self.cross_instance_weight * pp + self.negative_weight * np)
        return torch.stack(by_stage).mean()

    def _contrast(self, z1: Float[Tensor, "b d"], z2: Float[Tensor, "b d"]) -> Tensor:
        if self.contrast == "none" or (self.contrast == "infonce" and len(z1) == 1):
            return z1.new_zeros(())
        if self.contrast == "infonce":
            return infonce_loss(z1, z2, self.temperature)
        return simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)


def _embedding(features: list[Tensor]) -> Float[Tensor, "b d"]:
    """Every stage averaged over its positions, joined and scaled to unit length."""
    return F.normalize(torch.cat([stage.mean(dim=(2, 3)) for stage in features], dim=1), dim=1)
