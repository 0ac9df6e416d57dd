"""gaussian: fine-tuning on the Mahalanobis distance to an induced Gaussian, stopped before catastrophic forgetting.

Rippel, Chavan, Lei, Merhof: "Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations",
arXiv 2108.04116; the frozen predecessor: arXiv 2005.14140. docs/methods/gaussian.md has the evidence marks and the
differences from the paper.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone, Tails
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.nearest import rows_of
from anomaly_zoo.nn.network import Network, stages_of
from anomaly_zoo.nn.synthesis import FAMILIES, check_families
from anomaly_zoo.nn.validation import ForgettingStop, hold_out, separation
from anomaly_zoo.types import Batch, Distances, Stages

NUM_FINE_STAGES = 2
MIN_SQUARED = 1e-12  # the root has no gradient at 0


class GaussianAD(AnomalyModule):
    """Pulls the levels of normal images towards their Gaussians, until held-out images tell that the network forgets.

        L = mean over images and levels of the Mahalanobis distance to the Gaussians of the pre-trained features

    Levels go from the stem to the head, each averaged over its positions. Afterwards the Gaussians are fitted anew. Own
    distances: those of the levels, which are the paper's score (`image`), and, for a map, those of patches of the
    finest stages to a Gaussian that all positions share, at unit length and as they are (`detail`).

    Args:
        backbone: the tuned copy starts from it.
        steps: at most as many optimizer updates; 0 is the frozen predecessor.
        learning_rate: of Adam.
        covariance: of all Gaussians: shrunk estimates, or the `identity` (the control: Deep SVDD's objective).
        pseudo_anomalies: what held-out images must be told from, families of `nn/synthesis.py`.
        check_every: steps from one check of that to the next; 0 never checks and keeps the last state.
        **shared: see `AnomalyModule`.

    Raises:
        ValueError: a number out of range or an unknown family.
    """

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 160,
        learning_rate: float = 1e-5,
        covariance: Literal["ledoit_wolf", "identity"] = "ledoit_wolf",
        pseudo_anomalies: Sequence[str] = tuple(FAMILIES),
        check_every: int = 20,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, steps, learning_rate, **shared)
        check_families(pseudo_anomalies)
        if check_every < 0:
            raise ValueError(f"{check_every=}: need 0 or more.")
        self.pseudo_anomalies = list(pseudo_anomalies)
        self.check_every = check_every

        self.network = backbone.trainable_tail(all_levels=True)
        num_fine = len(backbone.finest(NUM_FINE_STAGES))
        identity = covariance == "identity"
        levels = nn.ModuleList(Gaussian(identity) for _ in range(backbone.num_early + self.network.num_stages))
        patches = nn.ModuleList(Gaussian(identity) for _ in range(2 * num_fine))
        self.levels: Sequence[Gaussian] = levels  # type: ignore[assignment] # so that its elements have a type
        self.patches: Sequence[Gaussian] = patches  # type: ignore[assignment]
        self._checked: list[Stages] = []  # until the training ends
        self._stop = ForgettingStop()

    @torch.no_grad()
    def prepare(self, support: Batch) -> None:
        """Fits the Gaussians to the pre-trained levels, and sets images aside for validation."""
        if not self.steps:
            return
        self._fit_levels(self._levels(stages_of(self._early, support.image)))
        if self.check_every and (held_out := hold_out(support, self.kept_out, self._one_batch_per_family)):
            images = (held_out.fitted, held_out.normal, *held_out.anomalous)
            self._checked = [stages_of(self._early, image) for image in images]
            self._has_forgotten()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean distance of the images to the Gaussians of the pre-trained features."""
        early = self._early(batch.image)
        pooled = early[: self.backbone.num_early] + _pooled(self.network(early[self.backbone.num_early :]))
        loss = torch.stack(self._distances_of_levels(pooled)).mean()
        self.log("train/loss", loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Ends the training, and restores the best state, when the network begins to forget."""
        if self._checked and self.global_step % self.check_every == 0 and self._has_forgotten():
            self._stop.restore(self.network)
            self.kept_step.fill_(self._stop.best_step)
            self.trainer.should_stop = True

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The frozen stages if there is a memory, the averaged levels, then the tuned stages that draw the map."""
        early = self._early(image)
        trunk = early[self.backbone.num_early :]
        tuned: Stages = self.network(trunk)
        fine = self.network.numbers_of([network.stages[:NUM_FINE_STAGES] for network in self.backbone.networks])
        return (
            self.memory_features(trunk) + early[: self.backbone.num_early] + _pooled(tuned) + [tuned[n] for n in fine]
        )

    def fit(self, features: Stages) -> None:
        """Fits all Gaussians to the tuned features."""
        self._checked, self._stop = [], ForgettingStop()  # gives free what only the training needs
        levels, fine = self._own(features)
        self._fit_levels(levels)
        for gaussian, stage in zip(self.patches, fine, strict=True):
            gaussian.fit(rows_of(stage))

    def distances(self, features: Stages) -> Distances:
        """The Mahalanobis distances (not squared) of the levels, and of the patches of the finest stages."""
        levels, fine = self._own(features)
        maps = [
            _root(gaussian(rows_of(stage))).view(-1, *stage.shape[2:])
            for gaussian, stage in zip(self.patches, fine, strict=True)
        ]
        return Distances(detail=maps, image=self._distances_of_levels(levels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds which levels there are."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["levels"] = self.network.stages

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out a head for which the backbone had no weights."""
        if checkpoint["levels"] != self.network.stages:
            each = zip(self.backbone.name.split("+"), checkpoint["levels"], strict=True)
            tails = [Network(name, levels, weights="none").trainable_tail() for name, levels in each]
            self.network = Tails(tails, len(self.backbone.scales))
            self.levels = self.levels[: self.backbone.num_early + self.network.num_stages]
        super().on_load_checkpoint(checkpoint)

    def _own(self, features: Stages) -> tuple[Stages, Stages]:
        """The averaged levels; the fine stages at unit length and as they are."""
        num_fine = len(self.patches) // 2
        fine, levels = features[-num_fine:], features[-num_fine - len(self.levels) : -num_fine]
        return levels, [F.normalize(stage, dim=1) for stage in fine] + fine

    def _early(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """The trunks' levels, averaged, then what the network goes on from."""
        levels, trunk = self.backbone.trunk(image)
        return _pooled(levels) + trunk

    def _levels(self, early: Stages) -> Stages:
        num_early = self.backbone.num_early
        return early[:num_early] + stages_of(lambda trunk: _pooled(self.network(trunk)), early[num_early:])

    def _fit_levels(self, levels: Stages) -> None:
        for gaussian, level in zip(self.levels, levels, strict=True):
            gaussian.fit(level.flatten(1))

    def _distances_of_levels(self, levels: Stages) -> list[Float[Tensor, " b"]]:
        return [_root(gaussian(level.flatten(1))) for gaussian, level in zip(self.levels, levels, strict=True)]

    @torch.no_grad()
    def _has_forgotten(self) -> bool:
        """Whether this network's Gaussians of the other images tell held-out images from pseudo-anomalies worse."""
        target = [(gaussian.mean, gaussian.cholesky) for gaussian in self.levels]
        fitted, *others = self._checked
        self._fit_levels(self._levels(fitted))
        normal, *families = (
            torch.stack(self._distances_of_levels(self._levels(early))).mean(dim=0) for early in others
        )
        for gaussian, (mean, cholesky) in zip(self.levels, target, strict=True):
            gaussian.mean, gaussian.cholesky = mean, cholesky
        scores = torch.stack([separation(normal, family) for family in families])
        return self._stop.has_forgotten(self.network, self.global_step, scores)

    def _one_batch_per_family(self, normal: Float[Tensor, "m 3 h w"]) -> Float[Tensor, "f m 3 h w"]:
        return torch.stack([FAMILIES[family](normal, self.generator)[0] for family in self.pseudo_anomalies])


def _pooled(levels: Stages) -> Stages:
    return [level.mean(dim=(2, 3), keepdim=True) for level in levels]


def _root(squared: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return squared.clamp(min=MIN_SQUARED).sqrt()
