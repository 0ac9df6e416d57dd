from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_zoo.methods.gaussian import GaussianAD
from anomaly_zoo.nn.backbone import Backbone
from tests.methods.fitting import (
    IMAGE,
    create,
    fit,
    fitted_views,
    is_state,
    mahalanobis,
    patches,
    same,
    scores,
    state,
    tuned,
    views,
)

WITH_HEAD = "tf_efficientnet_lite0"


def levels(module: GaussianAD, image: Tensor) -> list[Tensor]:
    early, _ = module.backbone.trunk(image)
    return [*early, *tuned(module, image)]


def pooled(stages: list[Tensor]) -> list[Tensor]:
    return [stage.detach().double().mean(dim=(2, 3)) for stage in stages]


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize(("name", "num_levels"), [("test_resnet", 5), (WITH_HEAD, 6), ("test_vit", 6)])
def test_own_distances_are_those_of_levels_and_of_fine_patches(
    memory: bool, name: str, num_levels: int, tiny_root: Path
) -> None:
    module = fit(create(GaussianAD, name, steps=1, memory=memory), tiny_root)
    with torch.no_grad():
        patch, detail, image = module.distances(module.features(IMAGE))
        normal, asked = levels(module, fitted_views(module).image), levels(module, IMAGE)
    assert not patch
    assert len(image) == num_levels
    for distance, *level in zip(image, pooled(normal), pooled(asked), strict=True):
        np.testing.assert_allclose(distance, mahalanobis(*level), rtol=1e-3)
    stages = module.backbone_spec["stages"][0]
    fine = [stages[0], stages[1]]  # as they are numbered among the levels, too
    for number, stage in enumerate(fine):
        rows = patches(normal[stage]), patches(asked[stage])
        np.testing.assert_allclose(detail[number].flatten(), mahalanobis(*map(F.normalize, rows)), rtol=1e-3)
        np.testing.assert_allclose(detail[number + len(fine)].flatten(), mahalanobis(*rows), rtol=1e-3)


@pytest.mark.parametrize("name", ["test_resnet", WITH_HEAD])
def test_without_steps_the_network_is_the_backbone(name: str, tiny_root: Path) -> None:
    module = fit(create(GaussianAD, name, steps=0), tiny_root)
    network = state(module.network)  # which may have a head as well
    tail = state(module.backbone.networks[0].tail)
    assert all(torch.equal(network[f"layers.0.{key}"], value) for key, value in tail.items())


def quiet(module: GaussianAD, monkeypatch: pytest.MonkeyPatch) -> GaussianAD:
    monkeypatch.setattr(module, "log", lambda *_: None)  # there is no trainer
    return module


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "identity"])
def test_the_loss_is_the_mean_distance_to_the_pre_trained_gaussians(
    covariance: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = quiet(create(GaussianAD, covariance=covariance, check_every=0), monkeypatch)
    support, batch = views(3, 4), views(2, 1)._replace(image=IMAGE)
    module.prepare(support)
    with torch.no_grad():
        pairs = list(zip(pooled(levels(module, support.image)), pooled(levels(module, IMAGE)), strict=True))
    distances = [
        mahalanobis(*level) if covariance == "ledoit_wolf" else (level[1] - level[0].mean(dim=0)).norm(dim=1).numpy()
        for level in pairs
    ]
    assert module.training_step(batch, 0).item() == pytest.approx(np.mean(distances), rel=1e-3)


def course(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """What the checks find, the same for both families."""
    of_families = iter([value for value in values for _ in range(2)])
    monkeypatch.setattr("anomaly_zoo.methods.gaussian.separation", lambda *_: torch.tensor(next(of_families)))


OPTIONS: dict[str, Any] = {"pseudo_anomalies": ["blob", "jigsaw"], "check_every": 2, "learning_rate": 0.01}


@pytest.mark.parametrize(
    ("values", "steps", "kept_step"),
    [
        ((0.5, 0.75, 0.625), 4, 2),
        ((0.75, 0.5), 2, 0),
        ((0.5, 0.5, 0.625, 0.75, 0.5), 8, 6),
        ((0.5, 0.75, 0.75, 0.75, 0.75, 0.75), 10, 10),  # all steps are made
    ],
)
def test_a_network_that_forgets_gets_its_best_state_back(
    values: tuple[float, ...], steps: int, kept_step: int, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course(monkeypatch, *values)
    module = fit(create(GaussianAD, steps=10, **OPTIONS), tiny_root)
    record = module.training_record()
    assert (record["steps"], record["kept_step"]) == (steps, kept_step)
    assert (record["weights_moved"] > 0) == (kept_step > 0)
    course(monkeypatch, *[0.5] * 9)
    again = fit(create(GaussianAD, steps=kept_step, **OPTIONS), tiny_root)
    assert is_state(module.network, state(again.network))


def test_a_destroyed_network_is_noticed(tiny_root: Path) -> None:
    class Steps(L.Callback):
        def __init__(self) -> None:
            self.states: list[dict[str, Tensor]] = []

        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
            assert isinstance(pl_module, GaussianAD)
            self.states.append(state(pl_module.network))

    seen = Steps()
    module = create(GaussianAD, WITH_HEAD, steps=30, check_every=1, learning_rate=1.0)
    fit(module, tiny_root, callbacks=[seen])
    record = module.training_record()
    assert record["kept_step"] < record["steps"] < 30
    assert is_state(module.network, seen.states[int(record["kept_step"])])


def test_without_checks_the_last_state_stays(tiny_root: Path) -> None:
    module = fit(create(GaussianAD, steps=3, check_every=0, learning_rate=1.0), tiny_root)
    assert module.training_record()["kept_step"] == 3


def test_a_backbone_without_a_head_comes_back_from_a_checkpoint(tiny_root: Path, tmp_path: Path) -> None:
    headless = timm.create_model(WITH_HEAD, pretrained=False).state_dict()
    for key in [key for key in headless if key.startswith(("conv_head", "bn2", "classifier"))]:
        del headless[key]
    torch.save(headless, tmp_path / "headless.pth")
    backbone = Backbone(WITH_HEAD, weights=str(tmp_path / "headless.pth"))
    module = fit(GaussianAD(backbone, steps=0, support_views=2, orientations="symmetries"), tiny_root)
    module.trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=True)
    assert same(scores(module), scores(GaussianAD.load_from_checkpoint(tmp_path / "adapted.ckpt").eval()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pseudo_anomalies": ["glitter"]}, r"families \['glitter'\]: choose one or more of cut_paste"),
        ({"pseudo_anomalies": []}, r"families \[\]: choose one or more of cut_paste"),
        ({"check_every": -1}, "check_every=-1: need 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(GaussianAD, **options)
