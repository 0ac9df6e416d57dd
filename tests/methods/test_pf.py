import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from anomaly_zoo.methods.pf import PF
from anomaly_zoo.nn.pruning import prune_channels
from tests.methods.fitting import IMAGE, create, fit, fitted_views, is_state, same, scores, state


class Losses(L.Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def losses_of(module: PF, root: Path) -> list[float]:
    seen = Losses()
    fit(module, root, callbacks=[seen])
    return seen.losses


@pytest.mark.parametrize("memory", [True, False])
def test_own_distances_are_what_is_left_between_teacher_and_student(memory: bool, tiny_root: Path) -> None:
    module = fit(create(PF, steps=2, memory=memory), tiny_root)
    with torch.no_grad():
        patch, detail, image = module.distances(module.features(IMAGE))
        stages = zip(module.backbone(IMAGE), module.network(IMAGE), strict=True)
    assert not image
    for number, (teacher, student) in enumerate(stages):
        t, s = teacher.double(), student.double()
        assert not torch.equal(t, s)

        def length(feature: Tensor) -> Tensor:
            return feature.square().sum(dim=1, keepdim=True).sqrt()

        torch.testing.assert_close(detail[number], length(t - s)[:, 0].float())
        torch.testing.assert_close(patch[number], length(t / length(t) - s / length(s))[:, 0].float())


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_without_steps_the_student_is_the_pruned_copy(criterion: Any, ratio: float, tiny_root: Path) -> None:
    module = fit(create(PF, steps=0, criterion=criterion, pruning_ratio=ratio), tiny_root)
    pruned = copy.deepcopy(module.backbone).requires_grad_(True)
    prune_channels(pruned.networks[0], ratio, criterion, fitted_views(module).image)
    assert is_state(module.network, state(pruned))
    assert not is_state(module.network, state(module.backbone))


def test_fine_tuning_restores_the_features(tiny_root: Path) -> None:
    losses = losses_of(create(PF, steps=20), tiny_root)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_an_unpruned_student_has_nothing_to_learn(tiny_root: Path) -> None:
    assert losses_of(create(PF, steps=1, pruning_ratio=0.0), tiny_root) == [pytest.approx(0, abs=1e-5)]


def test_a_random_student_has_all_to_learn(tiny_root: Path) -> None:
    pretrained, random = (losses_of(create(PF, steps=1, pretrained=value), tiny_root)[0] for value in (True, False))
    assert random > 2 * pretrained


@pytest.mark.parametrize("options", [{"criterion": "fpgm", "pruning_ratio": 0.8}, {"pretrained": False}])
def test_a_checkpoint_rebuilds_the_student(options: dict[str, Any], tiny_root: Path, tmp_path: Path) -> None:
    module = fit(create(PF, steps=2, **options), tiny_root)
    module.trainer.save_checkpoint(tmp_path / "pf.ckpt", weights_only=True)
    assert same(scores(module), scores(PF.load_from_checkpoint(tmp_path / "pf.ckpt").eval()))


def test_a_checkpoint_fits_into_a_student_that_is_pruned_already(tiny_root: Path, tmp_path: Path) -> None:
    module, other = fit(create(PF, steps=2), tiny_root), fit(create(PF, steps=2, pruning_ratio=0.6), tiny_root)
    module.trainer.save_checkpoint(tmp_path / "pf.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "pf.ckpt", weights_only=True)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    assert same(scores(module), scores(other.eval()))


def test_what_the_training_kept_is_given_free(tiny_root: Path) -> None:
    module = fit(create(PF, steps=1), tiny_root)
    assert module._view is None
    assert module._target == []


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_ratio=0\.99: choose 0 to 0\.95"):
        create(PF, pruning_ratio=0.99)
    with pytest.raises(ValueError, match="images_per_step=0: need 1 or more"):
        create(PF, images_per_step=0)
