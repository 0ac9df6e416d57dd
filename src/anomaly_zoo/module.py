"""The method contract: everything that a method is to the rest of the package, on one page.

prepare(support) -> training_step x steps -> calibrate(support) -> forward(image)
"""

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning.pytorch as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.orientation import NUM_ASKED, NUM_ORIENTATIONS, NUM_SYMMETRIES, find_orientations
from anomaly_zoo.nn.tiling import Tiling, predict_tiles, within_region
from anomaly_zoo.types import Batch, Prediction

Module = TypeVar("Module", bound="AnomalyModule")
Orientations = Literal["found", "square"]


class AnomalyModule(L.LightningModule, ABC):
    """Adapts to a few normal images, then scores new ones.

    A method overrides `forward` and those of `prepare`, `training_step` and `calibrate` that it needs. Whatever
    scoring needs is a parameter or a buffer, so that it moves with `.to()` and lies in the checkpoint. Metrics,
    files and tracking are none of its business. The support comes from `trainer.datamodule`.

    Args:
        backbone: the pre-trained network, already loaded; frozen or fine-tuned as the method likes.
        steps: optimizer updates; 0 for a training-free method. A smaller `Trainer(max_steps=...)` wins.
        support_views: views of every support image that `prepare` and `calibrate` get: 1 is the image as it
            is, more add mildly augmented views (see `data/transforms.py`), one for each orientation at least.
        learning_rate: of Adam, over all trainable parameters.
        orientations: of the views: those in which the support tells that the product comes (`found`, see
            `nn/orientation.py`), or always the symmetries of the `square`.

    Raises:
        ValueError: a number out of range.
    """

    is_calibrated: Tensor
    found_orientations: Tensor
    _init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "AnomalyModule":
        """Notes the constructor's arguments but the backbone, which rebuild the module from a checkpoint."""
        module = super().__new__(cls)
        bound = inspect.signature(cls).bind_partial(*args, **kwargs)  # partial, since copying passes none
        bound.apply_defaults()
        module._init_args = {name: value for name, value in bound.arguments.items() if name != "backbone"}
        return module

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 0,
        support_views: int = 1,
        learning_rate: float = 1e-4,
        orientations: Orientations = "found",
    ) -> None:
        super().__init__()
        if steps < 0 or support_views < 1 or learning_rate <= 0:
            raise ValueError(f"{steps=}, {support_views=}, {learning_rate=}: need steps >= 0, views >= 1, a rate > 0.")
        self.backbone: nn.Module = backbone
        self.backbone_spec = backbone.spec
        self.steps = steps
        self.support_views = support_views
        self.learning_rate = learning_rate
        self.orientations = orientations
        self.register_buffer("is_calibrated", torch.tensor(False))
        self.register_buffer("found_orientations", torch.arange(min(support_views, NUM_SYMMETRIES)))

    def prepare(self, support: Batch) -> None:
        """Runs once before the optimizer exists: prune, fit a target, cache features."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of one training batch: instances x views, the views of an instance side by side."""
        raise NotImplementedError(f"{type(self).__name__} has no training step: construct it with steps=0.")

    def calibrate(self, support: Batch) -> None:
        """Runs once after the last step, without gradients: fit memories, Gaussians, standardisation."""

    @abstractmethod
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        """Scores images in [0, 1]; the score of one never depends on the others."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over the trainable parameters; none for a training-free method."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [torch.optim.Adam(parameters, lr=self.learning_rate)] if self.steps else []

    # Lightning's hooks: where the contract is called. A method leaves them alone.

    def setup(self, stage: str) -> None:
        """Finds the orientations and calls `prepare` before fitting."""
        if stage == "fit":
            self.to(self.device)  # Lightning moves the network after this hook, and `prepare` needs it before
            if self.orientations == "found" and self.support_views > 1:
                self._find_orientations()
            self.prepare(self._support())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """Ends the training when the budget is spent."""
        if self.global_step < self.steps:
            return None
        self.trainer.should_stop = True
        return -1

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Calls `calibrate` after the last step."""
        self.eval()
        self.calibrate(self._support())
        self.is_calibrated.fill_(True)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override] # a NamedTuple
        """The prediction; a callback computes every metric from it."""
        if not self.is_calibrated:
            raise RuntimeError(
                f"This {type(self).__name__} is not adapted yet: fit it, or load a checkpoint saved after `fit` ended."
            )
        tiling: Tiling | None = getattr(self.trainer.datamodule, "tiling", None)  # type: ignore[attr-defined]
        prediction: Prediction = predict_tiles(self, batch.image, tiling) if tiling else self(batch.image)
        return prediction if batch.region is None else within_region(prediction, batch.region)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """The prediction."""
        return self.test_step(batch, batch_idx)

    @property
    def num_views(self) -> int:
        """How many views of every support image there are."""
        return max(self.support_views, len(self.found_orientations))

    def _find_orientations(self) -> None:
        asked = self._datamodule().support(NUM_ORIENTATIONS, range(NUM_ORIENTATIONS), max_images=NUM_ASKED)
        image = torch.unflatten(asked.image.to(self.device), 0, (-1, NUM_ORIENTATIONS))
        found = find_orientations(self.backbone, image, asked.path[::NUM_ORIENTATIONS])
        self.found_orientations = torch.tensor(found, device=self.device)

    def _support(self) -> Batch:
        image, mask, label, path, _ = self._datamodule().support(self.num_views, self.found_orientations.tolist())
        return Batch(image.to(self.device), mask.to(self.device), label.to(self.device), path)

    def _datamodule(self) -> Any:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined] # set by fit(datamodule=...)
        if datamodule is None:
            raise ValueError("Pass the data as `trainer.fit(module, datamodule=...)`: the support comes from there.")
        return datamodule

    # Checkpoints hold plain numbers and tensors; loading needs no arguments and unpickles no code.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the module."""
        checkpoint["backbone"] = self.backbone_spec
        checkpoint["init_args"] = self._init_args

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives every buffer that was fitted to the support the shape it has in the checkpoint."""
        for name, buffer in self.named_buffers():
            if name in checkpoint["state_dict"]:
                buffer.resize_(checkpoint["state_dict"][name].shape)

    @classmethod
    def load_from_checkpoint(cls: type[Module], checkpoint_path: str | Path, **kwargs: Any) -> Module:  # type: ignore[override]
        """Rebuilds the module as it was saved: the same scores to the last bit.

        Args:
            checkpoint_path: a file written by `Trainer.save_checkpoint`.
            **kwargs: constructor arguments that replace the saved ones.
        """
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        kwargs = checkpoint["init_args"] | kwargs
        kwargs.setdefault("backbone", Backbone(**checkpoint["backbone"], weights="none"))
        return super().load_from_checkpoint(checkpoint_path, weights_only=True, **kwargs)
