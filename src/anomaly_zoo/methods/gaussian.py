"""gaussian: fine-tuning on the Mahalanobis distance to an induced Gaussian, stopped before catastrophic forgetting.

Rippel, Chavan, Lei, Merhof: "Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations",
arXiv 2108.04116. docs/methods/gaussian.md has the evidence marks and the differences from the paper.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anomaly_zoo.module import AnomalyModule, Orientations
from anomaly_zoo.nn.backbone import Backbone, stages_of
from anomaly_zoo.nn.features import join, peak, to_image, unit_patches
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.nearest import distance_to_sample
from anomaly_zoo.nn.patch_gaussian import Spatial
from anomaly_zoo.nn.pseudo_anomalies import FAMILIES, make_pseudo_anomalies
from anomaly_zoo.nn.stage_gaussians import NUM_FINE_STAGES, StageGaussians
from anomaly_zoo.nn.validation import SupportStop, held_out_folds, hold_out, instances, separation
from anomaly_zoo.types import Batch, Prediction

MAX_FOLDS = 8
MIN_SPREAD = 1e-6


class GaussianAD(AnomalyModule):
    """Pulls normal features towards their Gaussian, until held-out images tell that the backbone begins to forget.

        L = mean over images and levels of the Mahalanobis distance to the Gaussians of the pre-trained features

    Levels are the stages averaged over their positions (the paper's) and the patches of the finest stages (ours). Then
    the Gaussians are fitted to the tuned features. The map sums the distances of patches to their Gaussians and to a
    memory of the support's. The image score is a weighted sum of the peaks (`features.peak`) of the memory's distances
    and of the patch Gaussians', and of the averaged stages' distance. Each distance counts in units of what held-out
    support images have.

    Args:
        backbone: fine-tuned but for what comes before its stages.
        steps: at most as many optimizer updates; 0 is the frozen predecessor.
        learning_rate: of Adam.
        support_views: views of every support image that the Gaussians and the memory are fitted on.
        orientations: of the views, see `AnomalyModule`.
        target: what training pulls towards: the `fixed` Gaussians of the pre-trained features, Gaussians `refitted` at
            every check, or `identity` covariances around the fixed means (the control: Deep SVDD's objective).
        spatial: see `PatchGaussian`.
        pseudo_anomalies: what held-out images must be told from, see `nn/pseudo_anomalies.py`.
        check_every: steps from one check of that to the next.
        patience: checks without a gain that end the training; 0 trains to the end and keeps the last state.
        memory_weight: of the memory in the map and in the image score; 0 does without it.
        patch_weight: of the patches' Gaussians in the image score.
        pooled_weight: of the averaged stages' Gaussians in the image score.
        max_patches: of every stage that the memory keeps.

    Raises:
        ValueError: a number out of range or an unknown family.
    """

    map_spread: Tensor
    score_spread: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 20,
        learning_rate: float = 1e-5,
        support_views: int = 8,
        orientations: Orientations = "found",
        target: Literal["fixed", "refitted", "identity"] = "fixed",
        spatial: Spatial = "shared",
        pseudo_anomalies: Sequence[str] = tuple(FAMILIES),
        check_every: int = 5,
        patience: int = 2,
        memory_weight: float = 1.0,
        patch_weight: float = 0.3,
        pooled_weight: float = 0.02,
        max_patches: int = 8192,
    ) -> None:
        super().__init__(backbone, steps, support_views, learning_rate, orientations)
        unknown = sorted(set(pseudo_anomalies) - set(FAMILIES))
        if unknown or not pseudo_anomalies:
            raise ValueError(f"pseudo_anomalies={list(pseudo_anomalies)}: choose among {', '.join(FAMILIES)}.")
        self.score_weights = (memory_weight, patch_weight, pooled_weight)
        if min(self.score_weights) < 0 or not any(self.score_weights):
            raise ValueError(f"{memory_weight=}, {patch_weight=}, {pooled_weight=}: need >= 0, and one above.")
        if max_patches < 1:
            raise ValueError(f"{max_patches=}: a memory needs at least 1.")
        self.target = target
        self.pseudo_anomalies = list(pseudo_anomalies)
        self.max_patches = max_patches

        backbone.freeze_early_stages()
        num_stages = len(backbone.stages)
        self.gaussians = StageGaussians(num_stages, spatial)
        self.memory = PatchMemory(num_stages)
        self.register_buffer("map_spread", torch.ones(len(self.gaussians.patches) + min(NUM_FINE_STAGES, num_stages)))
        self.register_buffer("score_spread", torch.ones(3))
        self.stop = SupportStop(check_every, patience)
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    @torch.no_grad()
    def prepare(self, support: Batch) -> None:
        """Fits the Gaussians to the pre-trained features and sets images aside for validation."""
        if self.steps:
            self.gaussians.fit(stages_of(self.backbone, support.image), instances(support.path))
        if self.steps and self.stop.patience:
            self.stop.held_out = hold_out(
                support, lambda normal: make_pseudo_anomalies(normal, self._generator, self.pseudo_anomalies)
            )
        if self.target == "identity":
            self.gaussians.forget_covariances()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean distance of the images that are not held out."""
        if self.stop.is_due(self.global_step):
            self.log("validation/auroc", self._check())
            if self.stop.is_patience_spent:
                self.trainer.should_stop = True
        held_out = self.stop.held_out.paths if self.stop.held_out else frozenset()
        trained = [number for number, path in enumerate(batch.path) if path not in held_out]
        stages = self.backbone(batch.image[trained] if trained else batch.image)
        if self.target == "refitted":
            self.gaussians.fit(stages, torch.arange(len(stages[0])))
        pooled, patches = self.gaussians(stages)
        losses = {"pooled": _mean(pooled), "patches": _mean(patches)}
        loss = (losses["pooled"] + losses["patches"]) * bool(trained)  # held-out images alone teach nothing
        self.log_dict({f"train/{name}": value for name, value in losses.items()} | {"train/loss": loss})
        return loss

    def calibrate(self, support: Batch) -> None:
        """Restores the best state; fits the Gaussians, the memory and the units of all distances to its features."""
        if self.stop.held_out is not None:
            if not self.stop.is_patience_spent:
                self._check()
            self.stop.restore(self.backbone)
        stages, instance = stages_of(self.backbone, support.image), instances(support.path)
        self.gaussians.fit(stages, instance)
        self._fit_spread(stages, instance)
        self.memory.fit(stages, self.max_patches)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """All distances of the patches as a map; their peaks and the averaged stages' as the image score."""
        stages = self.backbone(image)
        maps, scores = _measure(self.gaussians, stages, self.memory(stages)[0])
        memory_weight = self.score_weights[0]
        num_gaussians = len(self.gaussians.patches)
        weights = [1.0] * num_gaussians + [memory_weight] * (len(maps) - num_gaussians)
        weighted = [weight * part / spread for weight, part, spread in zip(weights, maps, self.map_spread, strict=True)]
        image_score = (scores.T / self.score_spread) @ scores.new_tensor(self.score_weights)
        return Prediction(to_image(join(weighted), (image.shape[2], image.shape[3])), image_score)

    @torch.no_grad()
    def _check(self) -> float:
        """How well this backbone's Gaussians of the other images tell held-out images from pseudo-anomalies."""
        held_out, gaussians = self.stop.held_out, self.gaussians.unfitted()
        assert held_out is not None
        gaussians.fit(stages_of(self.backbone, held_out.fitted), held_out.instance)
        normal = _scores(*gaussians(stages_of(self.backbone, held_out.normal)))
        by_family = [_scores(*gaussians(stages_of(self.backbone, family))) for family in held_out.anomalous]
        auroc = torch.stack([separation(n, a) for family in by_family for n, a in zip(normal, family, strict=True)])
        return self.stop.note(self.backbone, self.global_step, auroc)

    def _fit_spread(self, stages: list[Float[Tensor, "n _ _ _"]], instance: Int[Tensor, " n"]) -> None:
        """The units: the mean of every distance and score over support images that were held out, one at a time."""
        unit = unit_patches(stages)
        map_means, score_means = [], []
        for held_out in held_out_folds(instance, MAX_FOLDS):
            out, rest = held_out.nonzero()[:1, 0], ~held_out
            gaussians = self.gaussians.unfitted()
            gaussians.fit([stage[rest] for stage in stages], instance[rest])
            nearest = [distance_to_sample(stage[out], stage[rest]) for stage in unit]
            maps, scores = _measure(gaussians, [stage[out] for stage in stages], nearest)
            map_means.append(torch.stack([part.mean() for part in maps]))
            score_means.append(scores.mean(dim=1))
        if map_means:  # else there is one view of one image: nothing to compare with
            self.map_spread = torch.stack(map_means).mean(dim=0).clamp(min=MIN_SPREAD)
            self.score_spread = torch.stack(score_means).mean(dim=0).clamp(min=MIN_SPREAD)


def _measure(
    gaussians: StageGaussians, stages: list[Float[Tensor, "b _ _ _"]], nearest: list[Float[Tensor, "b _ _"]]
) -> tuple[list[Float[Tensor, "b _ _"]], Float[Tensor, "3 b"]]:
    """All maps; and the scores: the peaks of the memory's and the Gaussians', and the averaged stages' mean."""
    pooled, patches = gaussians(stages)
    return patches + nearest[:NUM_FINE_STAGES], torch.stack([peak(join(nearest)), *_scores(pooled, patches)])


def _scores(
    pooled: list[Float[Tensor, " b"]], patches: list[Float[Tensor, "b _ _"]]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The peak of patches of unit length, and the mean distance of the averaged stages."""
    return peak(join(patches[: len(patches) // 2])), torch.stack(pooled).mean(dim=0)


def _mean(distances: list[Tensor]) -> Float[Tensor, ""]:
    return torch.stack([distance.mean() for distance in distances]).mean()
