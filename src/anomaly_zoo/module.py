"""The method contract: everything that a method is to the rest of the package, on one page.

prepare(support) -> training_step x steps -> fit(features) -> distances(features)
"""

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.checkpoints import Rebuildable
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.network import stages_of
from anomaly_zoo.nn.orientation import NUM_ASKED, find_orientations
from anomaly_zoo.nn.scoring import Pooling, Scorer, as_if_new
from anomaly_zoo.nn.tiling import Tiling, predict_tiles, within_region
from anomaly_zoo.nn.validation import held_out_parts, kept_out
from anomaly_zoo.types import Batch, Distances, Prediction, Stages

Orientations = Literal["found", "symmetries"]

VIEWS_OF_ONE = 8  # of a single support image, since there is no other image to hold out


class AnomalyModule(Rebuildable):
    """Adapts to a few normal images, then scores new ones.

    A method overrides `distances`, and those of `prepare`, `training_step`, `features` and `fit` that it needs. All
    else is the same for every method: which images are held out, the units of the distances, the memory beside the
    method, and how map and image score come of them (`nn/scoring.py`). Whatever scoring needs is a parameter or a
    buffer; what is fine-tuned is called `network`. The support comes from `trainer.datamodule`.

    Args:
        backbone: the pre-trained network, already loaded; it stays frozen, and a method tunes a copy.
        steps: optimizer updates; 0 for none. A smaller `Trainer(max_steps=...)` wins.
        learning_rate: of Adam, over all trainable parameters.
        memory: whether the distance to a memory of the support's patches counts beside the method's own distances.
        max_patches: of every stage that a memory keeps.
        support_views: views of every support image (itself among them) that are fitted; one per orientation at least.
        orientations: of the views: `found` in the support (`nn/orientation.py`), or all `symmetries` of the shape.

    Raises:
        ValueError: a number out of range.
    """

    pooling: Pooling = "peak"
    num_raw_stages = 2  # finest ones whose patches the memory compares as they are, too: length shows faint defects
    coreset = False
    trains_on_batches = True  # not where training chooses among the support's views itself

    is_fitted: Tensor
    found_orientations: Tensor
    held_out_scores: Tensor  # of support images (of a single one, its views), by fits that did not see them
    held_out_peaks: Tensor  # the largest values of their anomaly maps
    held_out_level: Tensor  # the mean of all values of these maps
    steps_made: Tensor
    kept_step: Tensor
    weights_moved: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 0,
        learning_rate: float = 1e-4,
        memory: bool = True,
        max_patches: int = 8192,
        support_views: int = 8,
        orientations: Orientations = "found",
    ) -> None:
        super().__init__()
        if steps < 0 or support_views < 1 or learning_rate <= 0:
            raise ValueError(f"{steps=}, {support_views=}, {learning_rate=}: need steps >= 0, views >= 1, a rate > 0.")
        self.backbone = backbone.requires_grad_(False)
        self.backbone_spec = backbone.spec
        self.num_stages = len(backbone.num_channels)
        self.steps = steps
        self.learning_rate = learning_rate
        self.max_patches = max_patches
        self.support_views = support_views
        self.orientations = orientations
        raw = backbone.finest(self.num_raw_stages)
        self.memory = PatchMemory(self.num_stages, raw, max_patches, self.coreset) if memory else None
        self.scorer = Scorer(self.pooling)
        self.kept_out: list[str] = []  # files that training may not see: units and thresholds need new images
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.register_buffer("found_orientations", torch.zeros(1, dtype=torch.long))
        for name in ("held_out_scores", "held_out_peaks", "held_out_level"):
            self.register_buffer(name, torch.empty(0))
        for name, value in (("is_fitted", False), ("steps_made", 0), ("kept_step", -1), ("weights_moved", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    # What a method overrides

    def prepare(self, support: Batch) -> None:
        """Runs once before the optimizer exists: prune, fit a target, cache features."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of one training batch: instances x views, the views of an instance side by side."""
        raise NotImplementedError(f"{type(self).__name__} has no training step: construct it with steps=0.")

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        """Feature maps to measure from: the frozen backbone's, or a method's own ones behind `memory_features`."""
        return self.backbone(image)  # type: ignore[no-any-return]

    def fit(self, features: Stages) -> None:
        """Fits memories, Gaussians, or nothing: without each held-out part of the support, and in the end to all."""

    @abstractmethod
    def distances(self, features: Stages) -> Distances:
        """How far images are from normal, by this method's own idea; of one image, whatever the others are."""

    # What a method may use

    def memory_features(self, trunk: Stages) -> Stages:
        """The frozen backbone's feature maps, from what its trunk saw, if a memory compares them; else nothing."""
        return self.backbone.tail(trunk) if self.memory is not None else []

    def training_record(self) -> dict[str, float]:
        """What the training did: steps made, the step that was kept, the relative norm by which weights moved."""
        if not self.steps:
            return {}
        made = {"steps": self.steps_made, "kept_step": self.kept_step, "weights_moved": self.weights_moved}
        return {name: float(value) for name, value in made.items()}

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """Scores images in [0, 1]; the score of one never depends on the others."""
        groups = self._groups(self.features(image), self.memory)
        return self.scorer(groups, (image.shape[2], image.shape[3]))  # type: ignore[no-any-return]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over the trainable parameters; none for a training-free method."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [torch.optim.Adam(parameters, lr=self.learning_rate)] if self.steps else []

    # Lightning's hooks: where the contract is called. A method leaves them alone.

    def setup(self, stage: str) -> None:
        """Finds the orientations and calls `prepare` before fitting."""
        if stage == "fit":
            if self.steps and not any(parameter.requires_grad for parameter in self.parameters()):
                raise ValueError(f"{type(self).__name__} has nothing to train: steps={self.steps} must be 0.")
            self.kept_step.fill_(-1)
            self.to(self.device)  # Lightning moves the network after this hook, and `prepare` needs it before
            orientations = self._orientations()
            self.found_orientations = torch.tensor(orientations, device=self.device)
            self.kept_out = kept_out([str(path) for path in self._datamodule().support_files]) if self.steps else []
            self._datamodule().train_on_others(self.kept_out, self.trains_on_batches)
            self.prepare(self._support(self.num_views, orientations))
            if self.steps:
                self._before = self._tuned()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """Ends the training when the budget is spent."""
        if self.global_step < self.steps:
            return None
        self.trainer.should_stop = True
        return -1

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Notes what the training did, and fits everything to the support."""
        self.eval()
        self.steps_made.fill_(self.global_step)
        if self.kept_step < 0:
            self.kept_step.fill_(self.global_step)
        if self.steps:
            self.weights_moved = (self._tuned() - self._before).norm() / self._before.norm()
            del self._before
        self._fit_to_support()
        self.is_fitted.fill_(True)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override] # a NamedTuple
        """The prediction, from which a callback computes the metrics."""
        if not self.is_fitted:
            name = type(self).__name__
            raise RuntimeError(f"This {name} is not adapted yet: fit it, or load a checkpoint saved after `fit` ended.")
        tiling: Tiling | None = getattr(self.trainer.datamodule, "tiling", None)  # type: ignore[attr-defined]
        prediction: Prediction = predict_tiles(self, batch.image, tiling) if tiling else self(batch.image)
        return prediction if batch.region is None else within_region(prediction, batch.region)

    predict_step = test_step

    # Holding out: units and thresholds come from here

    def _fit_to_support(self) -> None:
        """Measures what held-out images have, which gives units and thresholds, then fits to the whole support."""
        datamodule = self._datamodule()
        num_images = len(datamodule.support_files)
        num_views = max(self.num_views, VIEWS_OF_ONE if num_images == 1 else 1)
        support = self._support(num_views, self.found_orientations.tolist() if num_images > 1 else None)
        number = torch.arange(len(support.path)).view(num_images, -1, num_views)  # image, tile, view
        features = stages_of(self.features, support.image)
        fitted = number[:, :, : self.num_views].flatten()
        if self.memory is not None:
            images = self.memory.fit([stage[fitted] for stage in features])
        groups, scored = [], []
        for held_out in held_out_parts(number):
            rest = fitted[~torch.isin(fitted, held_out)]
            self.fit([stage[rest] for stage in features])
            memory = self.memory.without(torch.isin(fitted, held_out), images) if self.memory is not None else None
            first = held_out[:, :, 0].flatten()
            scored += [support.path[index] for index in first]
            groups.append(self._groups([stage[first] for stage in features], memory))
        joined = [Distances.join(parts) for parts in zip(*groups, strict=True)]
        is_new = torch.tensor([path in self.kept_out for path in scored]) | (not self.kept_out)
        self.scorer.fit([group.of(is_new) for group in joined])
        self.fit([stage[fitted] for stage in features])
        anomaly_map, image_score = self.scorer(joined, tuple(support.image.shape[2:]))
        anomaly_map = datamodule.tiling.stitch(anomaly_map) if datamodule.tiling else anomaly_map
        is_new = is_new.view(len(anomaly_map), -1)[:, 0]
        self.held_out_scores = as_if_new(image_score.view(len(anomaly_map), -1).amax(dim=1), is_new)
        self.held_out_peaks = as_if_new(anomaly_map.flatten(1).amax(dim=1), is_new)
        self.held_out_level = anomaly_map[is_new].mean()

    def _groups(self, features: Stages, memory: PatchMemory | None) -> list[Distances]:
        """The method's own distances and the memory's, those that there are."""
        groups = [self.distances(features)]
        groups += [memory(features)] if memory is not None else []
        return [group for group in groups if group.all()]

    @property
    def num_views(self) -> int:
        """How many views of every support image are fitted to."""
        return max(self.support_views, len(self.found_orientations))

    def _orientations(self) -> list[int]:
        """Those that are found in the support, or the symmetries of its shape."""
        possible: list[int] = self._datamodule().orientations
        if self.orientations == "symmetries" or self.support_views == 1:
            return possible[: min(self.support_views, len(possible) // 2)]
        asked = self._datamodule().support(len(possible), possible, max_images=NUM_ASKED)
        image = torch.unflatten(asked.image.to(self.device), 0, (-1, len(possible)))
        return [possible[index] for index in find_orientations(self.backbone, image, asked.path[:: len(possible)])]

    def _support(self, num_views: int, orientations: list[int] | None) -> Batch:
        image, mask, label, path, _ = self._datamodule().support(num_views, orientations)
        return Batch(image.to(self.device), mask.to(self.device), label.to(self.device), path)

    def _datamodule(self) -> Any:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined] # set by fit(datamodule=...)
        if datamodule is None:
            raise ValueError("Pass the data as `trainer.fit(module, datamodule=...)`: the support comes from there.")
        return datamodule

    def _tuned(self) -> Float[Tensor, " n"]:
        network: nn.Module = getattr(self, "network", self)
        return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])
