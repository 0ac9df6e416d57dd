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
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.scoring import peak, to_image
from anomaly_zoo.types import Batch, Distances, Prediction, Stages


class Toy(AnomalyModule):
    """Tunes a projection towards zero, then scores the distance to the support's mean projected patch."""

    target: Tensor

    def __init__(
        self,
        backbone: Backbone,
        steps: int = 3,
        support_views: int = 2,
        learning_rate: float = 1e-3,
        names: Sequence[str] = ("a", "b"),
        **shared: Any,
    ) -> None:
        super().__init__(backbone, steps, learning_rate, support_views=support_views, **shared)
        self.names = names
        self.network = nn.Conv2d(backbone.num_channels[0], 8, 1)
        self.register_buffer("target", torch.empty(0))
        self.events: list[str] = []
        self.supports: list[Batch] = []
        self.fitted: list[Tensor] = []
        self.fitted_with: set[tuple[bool, bool]] = set()

    def prepare(self, support: Batch) -> None:
        self.events.append("prepare")
        self.supports.append(support)
        assert self.trainer.optimizers == []

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.events.append("optimizer")
        return super().configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.events.append("step")
        loss: Tensor = self.network(self.backbone(batch.image)[0]).square().mean()
        return loss

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Stages:
        stages: Stages = self.backbone(image)
        return [*stages, self.network(stages[0])]

    def fit(self, features: Stages) -> None:
        self.events.append("fit")
        self.fitted.append(features[0])
        self.fitted_with.add((torch.is_grad_enabled(), self.training))
        self.target = features[-1].mean(dim=(0, 2, 3))[:, None, None]

    def distances(self, features: Stages) -> Distances:
        return Distances(patch=[(features[-1] - self.target).norm(dim=1)])


class TrainingFree(Toy):
    """The same without a training step."""

    training_step = AnomalyModule.training_step


def toy(cls: type[Toy] = Toy, **options: Any) -> Toy:
    torch.manual_seed(0)
    return cls(Backbone("test_resnet", weights="none"), **options)


def data(root: Path, shots: int = 4) -> MVTecDataModule:
    return MVTecDataModule(root, "alpha", image_size=32, shots=shots)


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


def test_prepare_comes_before_the_optimizer_and_fit_after_the_last_step(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path)
    once_without_each_image_and_once_with_all = ["fit"] * 5
    assert module.events == ["prepare", "optimizer", "step", "step", "step", *once_without_each_image_and_once_with_all]
    assert module.fitted_with == {(False, False)}  # no gradients, not in training mode


def test_the_network_is_on_its_device_before_the_support_is_drawn(tiny_root: Path, tmp_path: Path) -> None:
    """Lightning calls `setup` before it moves the network; the device "meta" tells without a GPU."""

    class Looking(Toy):
        def _support(self, *args: Any) -> Batch:
            raise AssertionError({tensor.device.type for tensor in [*self.parameters(), *self.buffers()]})

    class Elsewhere(SingleDeviceStrategy):
        def setup_environment(self) -> None:
            """Nothing: the accelerator would refuse the device."""

        def teardown(self) -> None:
            """Nothing: what is on "meta" cannot come back."""

    module = toy(Looking, orientations="symmetries")
    with pytest.raises(AssertionError, match=r"^\{'meta'\}$"):
        trainer(tmp_path, strategy=Elsewhere(torch.device("meta"))).fit(module, datamodule=data(tiny_root))


def test_the_method_gets_the_whole_support_in_its_views(tiny_root: Path, tmp_path: Path) -> None:
    module = toy(support_views=3, orientations="symmetries")
    trainer(tmp_path).fit(module, datamodule=data(tiny_root))
    expected = data(tiny_root).support(views=3)
    (support,) = module.supports
    assert support.path == expected.path
    assert torch.equal(support.image, expected.image)
    with torch.no_grad():
        stages = module.backbone(expected.image)
    assert [len(stage) for stage in module.fitted] == [9, 9, 9, 9, 12]
    assert torch.allclose(module.fitted[-1], stages[0], atol=1e-5)
    for image, stage in enumerate(module.fitted[:-1]):  # without its three views
        rest = torch.arange(12) // 3 != image
        assert torch.allclose(stage, stages[0][rest], atol=1e-5)


def test_held_out_images_give_the_units_and_what_a_threshold_needs(tiny_root: Path, tmp_path: Path) -> None:
    """By hand, for two images: each is scored by what was fitted to the other."""
    module = toy(memory=False, steps=0, support_views=1)
    trainer(tmp_path).fit(module, datamodule=data(tiny_root, 2))
    with torch.no_grad():
        projected = module.features(data(tiny_root, 2).support().image)[-1]
    centre = projected.mean(dim=(2, 3))[:, :, None, None]
    by_the_other = [(projected[i] - centre[1 - i]).norm(dim=0) for i in range(2)]
    in_units = torch.stack(by_the_other) / torch.stack(by_the_other).mean()
    torch.testing.assert_close(module.scorer.unit, torch.stack(by_the_other).mean()[None], rtol=1e-4, atol=0)
    torch.testing.assert_close(module.held_out_scores, peak(in_units) / peak(in_units).mean(), rtol=1e-4, atol=0)
    expected = to_image(in_units, (32, 32))
    torch.testing.assert_close(module.held_out_peaks, expected.flatten(1).amax(dim=1), rtol=1e-4, atol=0)
    torch.testing.assert_close(module.held_out_level, expected.mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("shots", "num_scores"), [(1, 7), (2, 2), (4, 4)])
def test_every_support_image_is_held_out_once(tiny_root: Path, tmp_path: Path, shots: int, num_scores: int) -> None:
    module = toy()
    trainer(tmp_path).fit(module, datamodule=data(tiny_root, shots))
    assert module.held_out_scores.shape == module.held_out_peaks.shape == (num_scores,)
    assert module.held_out_scores.isfinite().all()
    torch.testing.assert_close(module.held_out_scores.mean(), torch.tensor(1.0))  # peaks have a unit as well


@pytest.mark.parametrize("memory", [False, True])
def test_the_memory_is_one_option(tiny_root: Path, tmp_path: Path, memory: bool) -> None:
    module = toy(memory=memory, steps=1)
    trainer(tmp_path).fit(module, datamodule=data(tiny_root))
    assert (module.memory is not None) == memory
    assert len(module.scorer.peak_unit) == 1 + memory
    assert any(name.startswith("memory.") for name in module.state_dict()) == memory


def test_the_training_says_what_it_did(tiny_root: Path, tmp_path: Path) -> None:
    module = toy()
    before = [parameter.detach().clone() for parameter in module.network.parameters()]
    trainer(tmp_path).fit(module, datamodule=data(tiny_root))
    record = module.training_record()
    difference = torch.cat([(a - b).flatten() for a, b in zip(module.network.parameters(), before, strict=True)])
    expected = difference.norm() / torch.cat([b.flatten() for b in before]).norm()
    assert (record["steps"], record["kept_step"]) == (3, 3)
    assert record["weights_moved"] == pytest.approx(expected.item(), rel=1e-5)
    assert fitted(tiny_root, tmp_path, steps=0).training_record() == {}
    module.steps = 1
    trainer(tmp_path).fit(module, datamodule=data(tiny_root))
    assert module.training_record()["kept_step"] == 1, "a second fit starts afresh"


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
    assert asked == [(4, 16)]
    expected = data(tiny_root).support(num_views, found)
    (support,) = module.supports
    assert torch.equal(support.image, expected.image)
    assert len(module.fitted[-1]) == len(expected.path)
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
    assert module.events[-1] == "fit"
    assert module.is_fitted


def test_steps_change_parameters_and_no_steps_change_none(tiny_root: Path, tmp_path: Path) -> None:
    before = dict(toy().named_parameters())
    for cls, steps in ((Toy, 3), (Toy, 0), (TrainingFree, 0)):
        after = fitted(tiny_root, tmp_path, cls=cls, steps=steps).named_parameters()
        moved = {name for name, value in after if not torch.equal(value, before[name])}
        assert moved == ({"network.weight", "network.bias"} if steps else set())


def test_a_method_without_a_training_step_says_what_to_do(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="TrainingFree has no training step: construct it with steps=0"):
        fitted(tiny_root, tmp_path, cls=TrainingFree, steps=1)


def test_the_optimizer_gets_what_is_trainable() -> None:
    module = toy(learning_rate=0.25)
    (optimizer,) = module.configure_optimizers()
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.25
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in module.network.parameters()]
    assert toy(steps=0).configure_optimizers() == []


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
    module = fitted(tiny_root, tmp_path, names=["x"], memory=False)
    module.trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=weights_only)
    checkpoint = torch.load(tmp_path / "adapted.ckpt", weights_only=True)
    assert "hyper_parameters" not in checkpoint
    assert checkpoint["backbone"] == module.backbone_spec
    assert checkpoint["init_args"] == {
        "steps": 3,
        "support_views": 2,
        "learning_rate": 1e-3,
        "names": ["x"],
        "memory": False,
    }


def test_loading_needs_no_arguments_and_gives_the_same_scores(tiny_root: Path, tmp_path: Path) -> None:
    module = fitted(tiny_root, tmp_path, steps=2, support_views=1, learning_rate=0.01, names=("q",))
    path = saved(module, tmp_path / "adapted.ckpt")
    torch.manual_seed(1)
    loaded = Toy.load_from_checkpoint(str(path))
    assert (loaded.steps, loaded.support_views, loaded.learning_rate, loaded.names) == (2, 1, 0.01, ("q",))
    assert loaded.is_fitted
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
    sizes = {name: value.shape for name, value in module.state_dict().items()}
    assert any(sizes[name] != value.shape for name, value in other.state_dict().items())
    trainer(tmp_path).test(other, datamodule=data(tiny_root), ckpt_path=path, weights_only=True)
    assert same(scores(other), scores(module))
