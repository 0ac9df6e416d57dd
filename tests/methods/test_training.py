"""What the three methods that are trained have in common."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from anomaly_zoo.methods.coft import COFT
from anomaly_zoo.methods.gaussian import GaussianAD
from anomaly_zoo.methods.pf import PF
from anomaly_zoo.module import AnomalyModule
from tests.methods.fitting import IMAGE, create, fit, is_state, same, scores, state

METHODS: dict[str, tuple[type[AnomalyModule], dict[str, Any]]] = {
    "pf": (PF, {}),
    "coft": (COFT, {}),
    "gaussian": (GaussianAD, {"learning_rate": 1e-3, "check_every": 0}),
}
every_method = pytest.mark.parametrize("name", METHODS)
with_and_without_memory = pytest.mark.parametrize("memory", [True, False])


def method(name: str, **options: Any) -> AnomalyModule:
    kind, own = METHODS[name]
    return create(kind, **{"steps": 3, **own, **options})


def trained(module: AnomalyModule) -> dict[str, Tensor]:
    network = module.network
    assert isinstance(network, torch.nn.Module)
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


@every_method
@with_and_without_memory
def test_steps_move_the_weights_and_nothing_else(name: str, memory: bool, tiny_root: Path) -> None:
    module, twin = method(name, memory=memory), method(name, memory=memory, steps=0)
    frozen = state(module.backbone)
    fit(module, tiny_root)
    fit(twin, tiny_root)
    before, after = trained(twin), trained(module)
    assert before.keys() == after.keys()
    assert all(not torch.equal(value, before[key]) for key, value in after.items())
    start, end = (torch.cat([value.flatten() for value in values.values()]).double() for values in (before, after))
    moved = ((end - start).norm() / start.norm()).item()
    assert module.training_record() == {"steps": 3, "kept_step": 3, "weights_moved": pytest.approx(moved, rel=1e-3)}
    assert moved > 0
    assert is_state(module.backbone, frozen)
    assert not same(scores(module), scores(twin))


@every_method
def test_the_frozen_twin_records_no_training(name: str, tiny_root: Path) -> None:
    module = fit(method(name, steps=0), tiny_root)
    assert module.training_record() == {}
    assert module.weights_moved == 0


@every_method
@with_and_without_memory
def test_a_checkpoint_gives_the_same_bits(name: str, memory: bool, tiny_root: Path, tmp_path: Path) -> None:
    module = fit(method(name, memory=memory), tiny_root)
    module.trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=True)
    loaded = type(module).load_from_checkpoint(tmp_path / "adapted.ckpt").eval()
    assert same(scores(module), scores(loaded))
    assert is_state(loaded, state(module))


@every_method
@pytest.mark.parametrize(("shots", "support_views"), [(1, 1), (1, 3), (2, 1), (6, 1)])
def test_any_support_gives_finite_scores(name: str, shots: int, support_views: int, tiny_root: Path) -> None:
    module = fit(method(name, support_views=support_views), tiny_root, shots)
    assert all(part.isfinite().all() and part.any() for part in scores(module))
    assert module.held_out_scores.isfinite().all()
    assert len(module.held_out_scores) == (shots if shots > 1 else 7)


@every_method
def test_an_image_is_scored_whatever_the_others_are(name: str, tiny_root: Path) -> None:
    module = fit(method(name), tiny_root)
    together, alone = scores(module), [scores(module, image[None]) for image in IMAGE]
    for number, part in enumerate(together):
        torch.testing.assert_close(part, torch.cat([one[number] for one in alone]), rtol=1e-3, atol=1e-4)


@every_method
def test_half_precision_gives_about_the_same_scores(name: str, tiny_root: Path) -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        module = fit(method(name, steps=2), tiny_root, precision=precision)
        datamodule = module.trainer.datamodule  # type: ignore[attr-defined] # set by `fit`
        batches = module.trainer.predict(module, datamodule=datamodule)
        found.append(torch.cat([prediction.image_score for prediction in batches or []]))  # type: ignore[union-attr]
    full, half = found
    assert not torch.equal(full, half)
    assert ((full - half).abs() / full).mean() < 0.05


@every_method
def test_a_smaller_budget_of_the_trainer_wins(name: str, tiny_root: Path) -> None:
    module = fit(method(name, steps=50), tiny_root, max_steps=2)
    assert module.training_record()["steps"] == 2
    assert isinstance(module.trainer, L.Trainer)
