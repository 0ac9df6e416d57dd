from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from anomaly_zoo.data import mvtec
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone, Frozen
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.orientation import NUM_ORIENTATIONS
from anomaly_zoo.types import Batch, Prediction


class Toy(AnomalyModule):
    """Tunes a network towards the mean feature of the support, then scores the distance to it."""

    target: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 3,
        support_views: int = 2,
        learning_rate: float = 1e-3,
        names: Sequence[str] = ("a", "b"),
    ) -> None:
        super().__init__(backbone, steps, support_views, learning_rate)
        self.names = names
        self.register_buffer("target", torch.empty(0))
        self.memory = PatchMemory(1)
        self.events: list[str] = []
        self.supports: list[Batch] = []
        self.calibrated_with = {"grad": True, "training": True}

    def prepare(self, support: Batch) -> None:
        self.events.append("prepare")
        self.supports.append(support)
        assert self.trainer.optimizers == []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.events.append("optimizer")
        return super().configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.events.append("step")
        return self._embed(batch.image).square().mean()

    def calibrate(self, support: Batch) -> None:
        self.events.append("calibrate")
        self.supports.append(support)
        self.calibrated_with = {"grad": torch.is_grad_enabled(), "training": self.training}
        embedded = self._embed(support.image)
        self.target = embedded.mean(dim=0)
        self.memory.fit([embedded[:, :, None, None]], size=100)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Prediction:
        embedded = self._embed(image)
        score = (embedded - self.target).norm(dim=1) + self.memory([embedded[:, :, None, None]])[0][0].flatten()
        return Prediction(score[:, None, None] * image.mean(dim=1), score)

    def _embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return torch.cat([stage.mean(dim=(2, 3)) for stage in self.backbone(image)], dim=1)


class TrainingFree(Toy):
    """The same without a training step."""

    training_step = AnomalyModule.training_step


def toy(cls: type[Toy] = Toy, **options: Any) -> Toy:
    torch.manual_seed(0)
    return cls(Backbone("test_resnet", weights="none"), **options)


def data(root: Path, **options: Any) -> MVTecDataModule:
    return MVTecDataModule(root, "alpha", image_size=32, shots=4, **options)


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return L.Trainer(accelerator="cpu", default_root_dir=folder, **({"max_epochs": 4} | quiet | options))


def fitted(root: Path, folder: Path, **options: Any) -> Toy:
    module = toy(**options)
    trainer(folder).fit(module, datamodule=data(root))
    return module


def saved(module: Toy, path: Path) -> Path:
    module.trainer.save_checkpoint(path, weights_only=True)
    return path


def scores(module: AnomalyModule) -> Prediction:
    with torch.no_grad():
        prediction: Prediction = module(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return prediction


def same(first: Prediction, second: Prediction) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_prepare_comes_before_the_optimizer_and_calibrate_after_the_last_step(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path)
    assert module.events == ["prepare", "optimizer", "step", "step", "step", "calibrate"]
    assert module.calibrated_with == {"grad": False, "training": False}


def test_the_network_is_on_its_device_before_the_support_is_drawn(tiny_root: Path, tmp_path: Path) -> None:
    """Lightning calls `setup` before it moves the network; the device "meta" tells without a GPU."""

    class Looking(Toy):
        def _support(self) -> Batch:
            raise AssertionError({tensor.device.type for tensor in [*self.parameters(), *self.buffers()]})

    class Elsewhere(SingleDeviceStrategy):
        def setup_environment(self) -> None:
            """Nothing: the accelerator would refuse the device."""

        def teardown(self) -> None:
            """Nothing: what is on "meta" cannot come back."""

    module = toy(Looking)
    module.orientations = "square"
    with pytest.raises(AssertionError, match=r"^\{'meta'\}$"):
        trainer(tmp_path, strategy=Elsewhere(torch.device("meta"))).fit(module, datamodule=data(tiny_root))


def test_both_get_the_whole_support_in_its_views(tiny_root: Path, tmp_path: Path) -> None:
    module = toy(support_views=3)
    module.orientations = "square"
    trainer(tmp_path).fit(module, datamodule=data(tiny_root))
    expected = data(tiny_root).support(views=3)
    for support in module.supports:
        assert support.path == expected.path
        assert torch.equal(support.image, expected.image)
    assert len(module.supports) == 2


@pytest.mark.parametrize(("found", "num_views"), [([0, 4], 3), ([0, 1, 2, 9], 4)])
def test_views_are_in_the_orientations_that_the_support_tells(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[int], num_views: int
) -> None:
    asked: list[tuple[int, ...]] = []

    def told(backbone: Backbone, image: Tensor, path: list[str]) -> list[int]:
        assert len(set(path)) == len(backbone(image[:, 0])[0])
        asked.append(tuple(image.shape[:2]))
        return found

    monkeypatch.setattr("anomaly_zoo.module.find_orientations", told)
    module = fitted(tiny_root, tmp_path, support_views=3)
    assert asked == [(4, NUM_ORIENTATIONS)]
    expected = data(tiny_root).support(num_views, found)
    for support in module.supports:
        assert torch.equal(support.image, expected.image)
    loaded = Toy.load_from_checkpoint(saved(module, tmp_path / "toy.ckpt"))
    assert loaded.found_orientations.tolist() == found
    assert loaded.num_views == num_views


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (5, {}, 5),  # more than an epoch of the patched data module
        (5, {"max_steps": 3}, 3),
        (3, {"max_steps": 5}, 3),
        (4, {"max_steps": 4}, 4),
        (5, {"max_epochs": 1}, 2),
        (3, {"accumulate_grad_batches": 2}, 6),
        (0, {}, 0),
        (0, {"max_steps": 2}, 0),
    ],
)
def test_the_smaller_budget_counts(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, options: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(mvtec, "TRAIN_BATCHES", 2)
    module = toy(steps=steps)
    trainer(tmp_path, **options).fit(module, datamodule=data(tiny_root))
    assert module.events.count("step") == expected
    assert module.events.count("prepare") == 1
    assert module.events[-1] == "calibrate"
    assert module.events.count("calibrate") == 1
    assert module.is_calibrated


def test_steps_change_parameters_and_no_steps_change_none(tiny_root: Path, tmp_path: Path) -> None:
    before = dict(toy().named_parameters())
    for cls, steps in ((Toy, 3), (Toy, 0), (TrainingFree, 0)):
        after = fitted(tiny_root, tmp_path, cls=cls, steps=steps).named_parameters()
        assert any(not torch.equal(value, before[name]) for name, value in after) == (steps > 0)


def test_a_method_without_a_training_step_says_what_to_do(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="TrainingFree has no training step: construct it with steps=0"):
        fitted(tiny_root, tmp_path, cls=TrainingFree, steps=1)


def test_the_optimizer_gets_what_is_trainable() -> None:
    module = toy(learning_rate=0.25)
    frozen = next(module.parameters()).requires_grad_(False)
    (optimizer,) = module.configure_optimizers()
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.25
    assert len(group["params"]) == len(list(module.parameters())) - 1
    assert all(parameter is not frozen for parameter in group["params"])


def test_plain_lightning_is_enough(tiny_root: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    lightning = L.Trainer(max_steps=2, accelerator="cpu", **options)
    module = Toy(Backbone(weights="none"))
    assert module.backbone_spec["name"] == "tf_efficientnet_lite0"
    lightning.fit(module, datamodule=MVTecDataModule(tiny_root, "alpha", shots=2, image_size=64))
    assert lightning.global_step == 2
    assert lightning.test(module, datamodule=data(tiny_root)) == [{}]  # a callback computes the metrics
    predictions: Any = lightning.predict(module, datamodule=data(tiny_root))
    assert [tuple(anomaly_map.shape) for anomaly_map, _ in predictions] == [(9, 32, 32)]
    lightning.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=True)
    assert same(scores(Toy.load_from_checkpoint(tmp_path / "adapted.ckpt")), scores(module))


def test_the_support_comes_from_a_datamodule(tiny_root: Path, tmp_path: Path) -> None:
    loader = data(tiny_root).train_dataloader()
    with pytest.raises(ValueError, match=r"Pass the data as `trainer\.fit\(module, datamodule=\.\.\.\)`"):
        trainer(tmp_path, max_steps=1).fit(toy(), train_dataloaders=loader)


@pytest.mark.parametrize("name", ["test", "predict"])
def test_scoring_before_adapting_is_refused(tiny_root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match="This Toy is not adapted yet: fit it, or load a checkpoint"):
        getattr(trainer(tmp_path), name)(toy(), datamodule=data(tiny_root))


@pytest.mark.parametrize(
    ("name", "value"), [("steps", -1), ("support_views", 0), ("learning_rate", 0.0), ("learning_rate", -1e-3)]
)
def test_numbers_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}.*need steps >= 0, views >= 1, a rate > 0"):
        Toy(Backbone("test_resnet", weights="none"), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("weights_only", [False, True])
def test_a_checkpoint_holds_plain_values(tiny_root: Path, tmp_path: Path, weights_only: bool) -> None:
    module = fitted(tiny_root, tmp_path, names=["x"])
    module.trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=weights_only)
    checkpoint = torch.load(tmp_path / "adapted.ckpt", weights_only=True)
    assert "hyper_parameters" not in checkpoint
    assert checkpoint["backbone"] == module.backbone_spec
    assert checkpoint["init_args"] == {"steps": 3, "support_views": 2, "learning_rate": 1e-3, "names": ["x"]}


def test_loading_needs_no_arguments_and_gives_the_same_scores(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path, steps=2, support_views=1, learning_rate=0.01, names=("q",))
    path = saved(module, tmp_path / "adapted.ckpt")
    torch.manual_seed(1)
    loaded = Toy.load_from_checkpoint(str(path))
    assert (loaded.steps, loaded.support_views, loaded.learning_rate, loaded.names) == (2, 1, 0.01, ("q",))
    assert loaded.is_calibrated
    assert same(scores(loaded), scores(module))


def test_loading_takes_other_arguments(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path)
    path = saved(module, tmp_path / "adapted.ckpt")
    own = Backbone("test_resnet", weights="none")
    loaded = Toy.load_from_checkpoint(path, learning_rate=0.5, backbone=own)
    assert (loaded.learning_rate, loaded.steps) == (0.5, 3)
    assert loaded.backbone is own
    assert same(scores(loaded), scores(module))


@pytest.mark.parametrize("is_fitted", [False, True])
def test_a_trainer_loads_a_checkpoint_into_another_module(tiny_root: Path, tmp_path: Path, is_fitted: bool) -> None:
    module = fitted(tiny_root, tmp_path)
    path = saved(module, tmp_path / "adapted.ckpt")
    other = fitted(tiny_root, tmp_path, support_views=1, steps=1) if is_fitted else toy()
    assert other.memory.stage0.shape != module.memory.stage0.shape
    trainer(tmp_path).test(other, datamodule=data(tiny_root), ckpt_path=path, weights_only=True)
    assert same(scores(other), scores(module))


def test_a_checkpoint_of_a_frozen_backbone_loads(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path, cls=FrozenToy, steps=0)
    loaded = FrozenToy.load_from_checkpoint(saved(module, tmp_path / "adapted.ckpt"))
    assert same(scores(loaded), scores(module))


class FrozenToy(TrainingFree):
    """Wraps its backbone, as patchcore does."""

    def __init__(self, backbone: Backbone, steps: int = 0) -> None:
        super().__init__(backbone, steps)
        self.backbone: nn.Module = Frozen(backbone)
