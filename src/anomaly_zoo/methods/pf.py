"""pf: a pruned copy of the backbone learns to see normal images as the backbone does; it fails on anomalous ones.

Zhang, Suganuma, Okatani: "Network Pruning and Fine-tuning for Few-shot Industrial Image Anomaly Detection", INDIN 2023.
docs/methods/pf.md has the evidence marks and the differences from the paper.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from anomaly_zoo.module import AnomalyModule, Orientations
from anomaly_zoo.nn.backbone import Backbone, Frozen, stages_of
from anomaly_zoo.nn.distillation import Stages, discrepancy, distillation_loss, found_negatives
from anomaly_zoo.nn.features import join, peak, to_image, unit_patches
from anomaly_zoo.nn.pruning import Criterion, Scope, check_ratio
from anomaly_zoo.nn.student import Structure, Student
from anomaly_zoo.nn.support_distance import SupportDistance
from anomaly_zoo.nn.validation import held_out_folds, instances
from anomaly_zoo.types import Batch, Prediction

MIN_SPREAD = 1e-6
NUM_FOLDS = 4  # one of which is held out to choose ratio and steps
CHECKS = 3  # of the budget of steps


class PF(AnomalyModule):
    """Prunes a copy of the backbone, teaches it the backbone's features of normal images, and scores where they differ.

        loss = sum over the stages of the mean of 1 - cos(teacher, student)

    The map sums the discrepancies of the stages and, in proportion to `memory_weight`, how far the teacher's patches
    are from those of the support. Each counts in units of what normal images have.

    Args:
        backbone: the teacher, frozen; the student starts as its copy.
        steps: optimizer updates of the student; 0 leaves it as pruned.
        learning_rate: of Adam.
        support_views: views of every support image, to train on unless `fresh_views`, and for memory and units.
        orientations: of the views, see `AnomalyModule`.
        pruning_ratio: of the student's hidden channels (or weights), 0 to 0.95. Several let the support choose one, and
            how many of the steps to take, by synthetic negatives in held-out support images.
        criterion: which channels are removed, see `nn/pruning.py`; weights always go by their size.
        scope: whether every layer loses the same ratio or all layers together do.
        structure: whether channels are removed, which makes the student small, or weights are set to 0.
        rounds: 1 prunes at once; more prune a share each, evenly spread over the first half of the steps.
        initial: whether the student starts from the backbone's weights or from random ones.
        fresh_views: whether every step sees new augmented views, or some of the support's `support_views` views, whose
            teacher features are computed once.
        images_per_step: at most as many as a training batch has if `fresh_views`.
        discrepancy: of `raw` features, whose length shows faint defects but is not trained; at `unit` length, which
            depends less on how the student was pruned; or the sum of both.
        discrepancy_weight: of the discrepancy in map and image score.
        memory_weight: of the distance to the support in both; 0 leaves it out.
        max_patches: of every stage that a memory keeps.

    Raises:
        ValueError: a number out of range.
    """

    spread: Tensor
    view: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 150,
        learning_rate: float = 1e-3,
        support_views: int = 8,
        orientations: Orientations = "found",
        pruning_ratio: float | Sequence[float] = 0.6,
        criterion: Criterion = "l1",
        scope: Scope = "layer",
        structure: Structure = "channels",
        rounds: int = 1,
        initial: Literal["pretrained", "random"] = "pretrained",
        fresh_views: bool = False,
        images_per_step: int = 4,
        discrepancy: Literal["raw", "unit", "both"] = "raw",
        discrepancy_weight: float = 1.0,
        memory_weight: float = 1.0,
        max_patches: int = 8192,
    ) -> None:
        super().__init__(backbone, steps, support_views, learning_rate, orientations)
        self.ratios = list(pruning_ratio) if isinstance(pruning_ratio, Sequence) else [pruning_ratio]
        for ratio in self.ratios:
            check_ratio(ratio)
        if not self.ratios or rounds < 1 or (rounds > 1 and len(self.ratios) > 1):
            raise ValueError(f"{pruning_ratio=}, {rounds=}: need one ratio, or several and 1 round.")
        if min(discrepancy_weight, memory_weight) < 0 or discrepancy_weight + memory_weight == 0:
            raise ValueError(f"{discrepancy_weight=}, {memory_weight=}: need 0 or more, and not both 0.")
        if min(max_patches, images_per_step) < 1:
            raise ValueError(f"{max_patches=}, {images_per_step=}: need 1 or more.")
        self.criterion = criterion
        self.scope = scope
        self.structure = structure
        self.rounds = rounds
        self.initial = initial
        self.fresh_views = fresh_views
        self.images_per_step = images_per_step
        self.discrepancy = discrepancy
        self.discrepancy_weight = discrepancy_weight
        self.memory_weight = memory_weight

        self.num_stages = len(backbone.stages)
        self.student = Student(backbone, initial)
        self.backbone = Frozen(backbone)
        self.support_distance = SupportDistance(self.num_stages, max_patches)
        self.register_buffer("spread", torch.ones(self.num_stages * (2 if discrepancy == "both" else 1)))
        for name in ("view", *(f"target{stage}" for stage in range(self.num_stages))):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def prepare(self, support: Batch) -> None:
        """Prunes the student, for the first time if there are several rounds, and caches what the teacher sees."""
        if self.rounds > 1 and self.trainer.world_size > 1:
            raise ValueError(f"rounds={self.rounds}: pruning during the training needs a single process. Set rounds=1.")
        if len(self.ratios) > 1:
            self._choose(support)
        self._prune(self.student, self.ratios[0] / self.rounds, support.image)
        if self.steps and (not self.fresh_views or self.rounds > 1):
            self.view = support.image
        if self.steps and not self.fresh_views:
            self._remember(stages_of(self.backbone, support.image))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The distillation loss on normal images."""
        self._next_round()
        if self.fresh_views:
            image = batch.image[: self.images_per_step]
            teacher = self.backbone(image)
        else:
            chosen = self._draw(self.view)
            image, teacher = self.view[chosen], [stage[chosen] for stage in self._targets()]
        loss = distillation_loss(teacher, self.student(image))
        self.log_dict({"train/loss": loss, "train/pruning_ratio": self.student.ratio})
        return loss

    def calibrate(self, support: Batch) -> None:
        """Measures the discrepancy that is left on the support, and fits the memories."""
        teacher = self._targets() if self._targets()[0].numel() else stages_of(self.backbone, support.image)
        student = stages_of(self.student, support.image)
        left = [stage.mean() for stage in self._discrepancies(teacher, student)]
        self.spread = torch.stack(left).clamp(min=MIN_SPREAD)
        if self.memory_weight:
            self.support_distance.fit(teacher, instances(support.path))
        self.view = torch.empty(0)
        self._remember([])

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """The map sums all distances; the image score is the peak of the sum of those that rank images best.

        These are the discrepancies of all stages but the finest, and the distances to the support at unit length.
        """
        teacher, student = self.backbone(image), self.student(image)
        left = zip(self._discrepancies(teacher, student), self.spread, strict=True)
        on_map = [self.discrepancy_weight * distance / spread for distance, spread in left]
        of_image = [distance for number, distance in enumerate(on_map) if number % self.num_stages] or list(on_map)
        if self.memory_weight:
            unit, raw = self.support_distance(teacher)
            on_map += [self.memory_weight * distance for distance in unit + raw]
            of_image = [2 * self.memory_weight * distance for distance in unit] + of_image
        size = (image.shape[2], image.shape[3])
        return Prediction(to_image(join(on_map), size), peak(join(of_image)))

    def _discrepancies(self, teacher: Stages, student: Stages) -> list[Float[Tensor, "b _ _"]]:
        """Of every stage, raw and then at unit length, as far as they are asked for."""
        found = discrepancy(teacher, student) if self.discrepancy != "unit" else []
        return found + (discrepancy(unit_patches(teacher), unit_patches(student)) if self.discrepancy != "raw" else [])

    # The student

    def _new_student(self) -> Student:
        teacher = self.backbone.module
        assert isinstance(teacher, Backbone)
        return Student(teacher, self.initial)

    def _prune(self, student: Student, ratio: float, image: Float[Tensor, "b 3 h w"]) -> None:
        student.prune(ratio, image, self.criterion, self.scope, self.structure)

    def _next_round(self) -> None:
        """Prunes further when a round is due, and lets the optimizer forget the parameters that were."""
        done = round(self.student.ratio / self.ratios[0] * self.rounds) if self.ratios[0] else self.rounds
        if done >= self.rounds or self.global_step < done * self.steps / (2 * self.rounds):
            return
        self._prune(self.student, self.ratios[0] * (done + 1) / self.rounds, self.view)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        optimizer.param_groups[0]["params"] = [p for p in self.parameters() if p.requires_grad]
        optimizer.state.clear()

    def _choose(self, support: Batch) -> None:
        """Picks the ratio, and the steps, with which a student of some support images finds negatives in the others."""
        folds = held_out_folds(instances(support.path), NUM_FOLDS)
        if not folds or not self.steps:  # a single view cannot be held out: the first ratio
            return
        image, held_out = support.image[~folds[0]], support.image[folds[0]]
        teacher = stages_of(self.backbone, image)
        found: dict[tuple[float, int], float] = {}
        for ratio in self.ratios:
            student = self._new_student()
            self._prune(student, ratio, image)
            optimizer = torch.optim.Adam(student.parameters(), lr=self.learning_rate)
            for step in range(1, self.steps + 1):
                chosen = self._draw(image)
                loss = distillation_loss([stage[chosen] for stage in teacher], student(image[chosen]))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % max(1, self.steps // CHECKS) == 0:
                    generator = torch.Generator().manual_seed(0)  # the same negatives for all
                    found[ratio, step] = found_negatives(self.backbone, student, held_out, generator)
        ratio, self.steps = max(found, key=lambda choice: found[choice])
        self.ratios = [ratio]

    def _draw(self, image: Float[Tensor, "n 3 h w"]) -> Int[Tensor, " b"]:
        return torch.randint(len(image), (self.images_per_step,), generator=self._generator).to(self.device)

    # What the teacher sees, computed once; not in checkpoints

    def _targets(self) -> list[Tensor]:
        return [getattr(self, f"target{stage}") for stage in range(self.num_stages)]

    def _remember(self, targets: list[Tensor]) -> None:
        for stage in range(self.num_stages):
            setattr(self, f"target{stage}", targets[stage] if targets else torch.empty(0))

    # Checkpoints: the shapes of the pruned student

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what was pruned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["pruning"] = self.student.pruning

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Prunes an untouched copy of the teacher as the saved student was."""
        self.student = self._new_student()
        self.student.rebuild(checkpoint["pruning"])
        super().on_load_checkpoint(checkpoint)
