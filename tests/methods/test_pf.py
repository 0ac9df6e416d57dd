from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
import yaml
from torch import Tensor

from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.methods.pf import PF
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.features import join, peak, to_image
from anomaly_zoo.types import Batch, Prediction
from anomaly_zoo.yaml_files import CONFIGS

ABLATIONS = sorted((CONFIGS / "ablations" / "pf").glob("*.yaml"))


def pf(**options: Any) -> PF:
    torch.manual_seed(0)
    return PF(Backbone("test_resnet", weights="none"), **({"steps": 4, "support_views": 2} | options))


class Losses(L.Callback):
    """Keeps the loss, and the student's number of parameters, of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.params: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        assert isinstance(pl_module, PF)
        self.losses.append(float(outputs["loss"]))
        self.params.append(sum(parameter.numel() for parameter in pl_module.student.parameters()))


def fit(module: PF, root: Path, shots: int = 4, **options: Any) -> Losses:
    seen = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[seen],
        **options,
    )
    trainer.fit(module, datamodule=MVTecDataModule(root, "alpha", image_size=64, shots=shots, batch_size=2))
    module.eval()
    return seen


def support(num_images: int = 3, views: int = 2) -> Batch:
    image = torch.rand(num_images * views, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    path = [f"{number}.png" for number in range(num_images) for _ in range(views)]
    return Batch(
        image, torch.zeros(len(image), 64, 64, dtype=torch.bool), torch.zeros(len(image), dtype=torch.bool), path
    )


@torch.no_grad()
def scores(module: PF) -> Prediction:
    prediction: Prediction = module(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return prediction


def same(first: Prediction, second: Prediction) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def saved(module: PF, path: Path) -> Path:
    module.trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.mark.parametrize(("kind", "lengths"), [("raw", [False]), ("unit", [True]), ("both", [False, True])])
@torch.no_grad()
def test_scores_are_the_sums_of_distances_in_units_of_the_support(kind: str, lengths: list[bool]) -> None:
    module = pf(discrepancy=kind, discrepancy_weight=3.0, memory_weight=2.0).eval()
    normal = support()
    module.student.prune(0.5, normal.image, "l1", "layer", "channels")
    module.calibrate(normal)
    image = torch.rand(2, 3, 64, 64)

    def at_length(feature: Tensor, is_unit: bool) -> Tensor:
        return feature / feature.square().sum(dim=1, keepdim=True).sqrt() if is_unit else feature

    def left(image: Tensor) -> list[Tensor]:
        return [
            (at_length(t, is_unit) - at_length(s, is_unit)).square().sum(dim=1).sqrt()
            for is_unit in lengths
            for t, s in zip(module.backbone(image), module.student(image), strict=True)
        ]

    units = [stage.mean() for stage in left(normal.image)]
    discrepancy = [3 * stage / unit for stage, unit in zip(left(image), units, strict=True)]
    unit, raw = ([2 * stage for stage in part] for part in module.support_distance(module.backbone(image)))
    prediction = module(image)
    torch.testing.assert_close(prediction.anomaly_map, to_image(join([*discrepancy, *unit, *raw]), (64, 64)))
    coarse = [stage for number, stage in enumerate(discrepancy) if number % module.num_stages]
    of_image = join([*(2 * stage for stage in unit), *coarse])
    torch.testing.assert_close(prediction.image_score, peak(of_image))


def test_fine_tuning_restores_the_features(tiny_root: Path) -> None:
    seen = fit(pf(steps=20), tiny_root)
    assert sum(seen.losses[-5:]) < 0.8 * sum(seen.losses[:5])


def test_an_unpruned_student_has_nothing_to_learn(tiny_root: Path) -> None:
    assert fit(pf(steps=1, pruning_ratio=0.0), tiny_root).losses == [pytest.approx(0, abs=1e-5)]


def test_a_student_that_was_only_pruned_still_scores(tiny_root: Path) -> None:
    module = pf(steps=0, memory_weight=0.0)
    assert fit(module, tiny_root).losses == []
    assert all(part.isfinite().all() and part.any() for part in scores(module))


def test_rounds_prune_while_training(tiny_root: Path) -> None:
    seen = fit(pf(steps=12, rounds=3, images_per_step=2), tiny_root)
    assert len(set(seen.params)) == 3
    assert seen.params == sorted(seen.params, reverse=True)
    assert [seen.params.index(count) for count in dict.fromkeys(seen.params)] == [0, 2, 4]
    assert all(loss > 0 for loss in seen.losses)


def test_pruned_parameters_of_a_round_are_still_trained(tiny_root: Path) -> None:
    module = pf(steps=6, rounds=2)
    fit(module, tiny_root)
    optimizer = module.trainer.optimizers[0]
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in module.student.parameters()}
    assert all(parameter.grad is not None for parameter in module.student.parameters())


def test_rounds_on_several_processes_are_refused() -> None:
    module = pf(rounds=2)
    module._trainer = type("Two", (), {"world_size": 2})()
    with pytest.raises(ValueError, match="rounds=2: pruning during the training needs a single process"):
        module.prepare(support())


def test_fresh_views_train_as_well(tiny_root: Path) -> None:
    losses = fit(pf(steps=3, fresh_views=True, images_per_step=3), tiny_root).losses
    assert len(losses) == 3
    assert all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(("shots", "support_views"), [(1, 1), (1, 3), (6, 1)])
def test_any_support_gives_finite_scores(tiny_root: Path, shots: int, support_views: int) -> None:
    module = pf(support_views=support_views, pruning_ratio=[0.3, 0.6])
    fit(module, tiny_root, shots)
    assert all(part.isfinite().all() for part in scores(module))


def test_the_support_chooses_ratio_and_steps(tiny_root: Path) -> None:
    module = pf(steps=6, pruning_ratio=[0.3, 0.9])
    losses = fit(module, tiny_root).losses
    assert module.ratios in ([0.3], [0.9])
    assert module.steps in (2, 4, 6)
    assert len(losses) == module.steps


@pytest.mark.parametrize(
    "options",
    [
        {"rounds": 3, "steps": 6},
        {"structure": "weights"},
        {"initial": "random"},
        {"pruning_ratio": [0.3, 0.6]},
        {"discrepancy": "both"},
        {"scope": "global", "criterion": "taylor", "memory_weight": 0.0},
    ],
)
def test_a_checkpoint_rebuilds_the_student(tiny_root: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    module = pf(**options)
    fit(module, tiny_root)
    loaded = PF.load_from_checkpoint(saved(module, tmp_path / "pf.ckpt")).eval()
    assert same(scores(module), scores(loaded))


def test_a_checkpoint_fits_into_a_student_that_is_pruned_already(tiny_root: Path, tmp_path: Path) -> None:
    module, other = pf(), pf(pruning_ratio=0.3)
    fit(module, tiny_root)
    fit(other, tiny_root)
    state = torch.load(saved(module, tmp_path / "pf.ckpt"), weights_only=True)
    other.on_load_checkpoint(state)
    other.load_state_dict(state["state_dict"])
    assert same(scores(module), scores(other.eval()))


def test_checkpoints_hold_no_images_and_no_code(tiny_root: Path, tmp_path: Path) -> None:
    module = pf()
    fit(module, tiny_root)
    assert not module.view.numel()
    state = torch.load(saved(module, tmp_path / "pf.ckpt"), weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith(("view", "target"))]


def test_ablations_can_be_built_and_differ_from_the_method() -> None:
    models = [yaml.safe_load(file.read_text())["model"] for file in [*ABLATIONS, CONFIGS / "methods" / "pf.yaml"]]
    backbone = Backbone("test_resnet", weights="none")
    for model in models:
        assert model["class_path"] == "anomaly_zoo.methods.pf.PF"
        PF(backbone, **model["init_args"])
    arguments = [model["init_args"] for model in models]
    assert len(ABLATIONS) > 20
    assert [file.stem for file, own in zip(ABLATIONS, arguments, strict=False) if own == arguments[-1]] == []


def test_without_steps_the_first_ratio_is_taken(tiny_root: Path) -> None:
    module = pf(steps=0, pruning_ratio=[0.3, 0.6])
    fit(module, tiny_root)
    assert module.student.ratio == 0.3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_ratio=0\.99: choose 0 to 0\.95"):
        pf(pruning_ratio=[0.5, 0.99])
    with pytest.raises(ValueError, match="need one ratio, or several and 1 round"):
        pf(pruning_ratio=[0.3, 0.6], rounds=2)
    with pytest.raises(ValueError, match="and not both 0"):
        pf(discrepancy_weight=0.0, memory_weight=0.0)
    with pytest.raises(ValueError, match="images_per_step=0: need 1 or more"):
        pf(images_per_step=0)
