"""What every method in configs/methods promises, whatever it does inside."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn

from anomaly_zoo.config import AnomalyCLI, build, method_files, resolve
from anomaly_zoo.module import AnomalyModule

METHODS = sorted(method_files())
QUICK = {"steps": 3}


def tiny_config(method: str, root: Path) -> dict[str, Any]:
    options = [f"--data.root={root}", "--data.category=alpha", "--data.shots=4", "--data.image_size=64"]
    config = resolve(method, [*options, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"])
    arguments = config["model"]["init_args"]
    arguments |= {key: min(value, arguments[key]) for key, value in QUICK.items() if key in arguments}
    return config


class _Gradients(L.Callback):
    """Remembers the losses, which parameters a gradient other than 0 has reached, and which ones moved at any time."""

    def __init__(self, before: dict[str, Tensor]) -> None:
        self.before = before
        self.losses: list[Tensor] = []
        self.reached: set[str] = set()
        self.moved: set[str] = set()  # a method may go back to an earlier state at the end

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"])
        for name, parameter in pl_module.named_parameters():
            if not torch.equal(parameter.cpu(), self.before[name]):
                self.moved.add(name)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any():
                self.reached.add(name)


class Adapted:
    """A method after `fit` on the tiny dataset, and its state before."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.cli: AnomalyCLI = build(config)
        self.module: AnomalyModule = self.cli.model
        self.before = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.gradients = _Gradients(self.before)
        self.cli.trainer.callbacks.append(self.gradients)  # type: ignore[attr-defined]
        self.cli.trainer.fit(self.module, datamodule=self.cli.datamodule)
        self.images = torch.cat([batch.image for batch in self.cli.datamodule.test_dataloader()])
        self.module.eval()

    @torch.no_grad()
    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map, image_score = self.module(images)
        return anomaly_map, image_score


@pytest.fixture(scope="module", params=METHODS)
def adapted(request: pytest.FixtureRequest, tiny_root: Path) -> Adapted:
    return Adapted(tiny_config(request.param, tiny_root))


def test_there_are_methods() -> None:
    assert "patchcore" in METHODS


def test_training_reaches_every_trainable_parameter(adapted: Adapted) -> None:
    trainable = {name for name, parameter in adapted.module.named_parameters() if parameter.requires_grad}
    assert adapted.gradients.reached == (trainable if adapted.module.steps else set())
    assert len(adapted.gradients.losses) == adapted.module.steps
    assert all(loss.isfinite() for loss in adapted.gradients.losses)


def test_only_trainable_parameters_move(adapted: Adapted) -> None:
    trainable = {name for name, parameter in adapted.module.named_parameters() if parameter.requires_grad}
    fitted = {name for name, _ in adapted.module.named_buffers() if not name.startswith("backbone.")}
    after = adapted.module.state_dict()
    moved = {name for name, value in adapted.before.items() if not torch.equal(value, after[name])}
    assert moved | adapted.gradients.moved <= trainable | fitted
    assert not adapted.module.steps or adapted.gradients.moved == trainable


def test_state_lies_in_parameters_and_buffers(adapted: Adapted) -> None:
    assert list(_loose_tensors(adapted.module)) == []


def test_prediction_has_the_shape_of_the_images(adapted: Adapted) -> None:
    anomaly_map, image_score = adapted.scores(adapted.images)
    assert anomaly_map.shape == (len(adapted.images), 64, 64)
    assert image_score.shape == (len(adapted.images),)
    assert anomaly_map.isfinite().all()
    assert image_score.isfinite().all()


def test_score_does_not_depend_on_the_rest_of_the_batch(adapted: Adapted) -> None:
    together = adapted.scores(adapted.images)
    alone = [adapted.scores(image[None]) for image in adapted.images]
    for i, part in enumerate(together):
        torch.testing.assert_close(torch.cat([prediction[i] for prediction in alone]), part, rtol=1e-3, atol=1e-4)


def test_finds_a_trivial_defect(adapted: Adapted) -> None:
    adapted.cli.trainer.test(adapted.module, datamodule=adapted.cli.datamodule, verbose=False)
    metrics = adapted.cli.evaluation.metrics
    assert metrics["image_auroc"] > 0.8
    assert metrics["pixel_auroc"] > 0.8
    assert metrics["aupro"] > 0.5


def test_same_seed_gives_the_same_scores_to_the_last_bit_whatever_the_test_labels(
    adapted: Adapted, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(adapted.cli.datamodule.root, root)
    test = root / "alpha" / "test"
    for old, new in (("good", "kept"), ("large", "good"), ("kept", "large")):  # normal becomes anomalous and vice versa
        (test / old).rename(test / new)
    again = Adapted(tiny_config(request.node.callspec.params["adapted"], root))
    assert not torch.equal(adapted.images, again.images)  # they come in another order, by label
    for first, second in zip(adapted.scores(adapted.images), again.scores(adapted.images), strict=True):
        assert torch.equal(first, second)
    mine = again.module.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in adapted.module.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_single_support_image_is_enough(method: str, tiny_root: Path) -> None:
    config = tiny_config(method, tiny_root)
    config["data"]["shots"] = 1
    single = Adapted(config)
    single.cli.trainer.test(single.module, datamodule=single.cli.datamodule, verbose=False)
    assert single.cli.evaluation.metrics["image_auroc"] > 0.5
    assert all(prediction.isfinite().all() for prediction in single.scores(single.images))


def test_checkpoint_gives_the_same_scores_to_the_last_bit(adapted: Adapted, tmp_path: Path) -> None:
    path = tmp_path / "adapted.ckpt"
    adapted.cli.trainer.save_checkpoint(path, weights_only=True)
    loaded = type(adapted.module).load_from_checkpoint(path)
    loaded.eval()
    with torch.no_grad():
        for saved, read in zip(adapted.scores(adapted.images), loaded(adapted.images), strict=True):
            assert torch.equal(saved, read)


def test_an_unadapted_module_says_so(tiny_root: Path) -> None:
    cli = build(tiny_config("patchcore", tiny_root))
    with pytest.raises(RuntimeError, match="not adapted yet"):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


def _loose_tensors(module: nn.Module) -> Iterator[str]:
    """Names of tensors in attributes, also inside lists, tuples and dicts, that are neither parameter nor buffer."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in ("_parameters", "_buffers", "_modules", "_trainer") and _holds_tensor(value):
                yield f"{prefix}.{name}"


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_tensor(part) for part in value.values())
    if isinstance(value, list | tuple | set):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)
