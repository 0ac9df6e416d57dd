from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomaly_zoo.config import build, resolve
from anomaly_zoo.methods.gaussian import GaussianAD
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.features import join, peak, unit_patches
from anomaly_zoo.types import Batch


def support(num_images: int, views: int, seed: int = 0) -> Batch:
    image = torch.rand(num_images * views, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    path = [f"{number}.png" for number in range(num_images) for _ in range(views)]
    nothing = torch.zeros(len(image), dtype=torch.bool)
    return Batch(image, nothing[:, None, None].expand(-1, 64, 64), nothing, path)


def method(**options: object) -> GaussianAD:
    torch.manual_seed(0)
    return GaussianAD(Backbone(), max_patches=50, **options).eval()  # type: ignore[arg-type] # of the constructor


@torch.no_grad()
def test_the_frozen_predecessor_is_the_mean_mahalanobis_distance_of_the_averaged_stages() -> None:
    frozen = method(steps=0, memory_weight=0.0, patch_weight=0.0, pooled_weight=1.0)
    normal, image = support(num_images=10, views=4), support(5, 1, seed=1).image
    frozen.calibrate(normal)
    by_level = []
    for fitted, asked in zip(frozen.backbone(normal.image), frozen.backbone(image), strict=True):
        reference = LedoitWolf().fit(fitted.double().mean(dim=(2, 3)).numpy())
        by_level.append(np.sqrt(reference.mahalanobis(asked.double().mean(dim=(2, 3)).numpy())))
    score = frozen(image).image_score * frozen.score_spread[2]
    np.testing.assert_allclose(score.numpy(), np.mean(by_level, axis=0), rtol=1e-5)


@torch.no_grad()
def test_scores_are_weighted_distances_in_units_of_held_out_support_images() -> None:
    adapted = method(steps=0)
    normal, image = support(num_images=3, views=2), support(2, 1, seed=1).image
    adapted.calibrate(normal)
    stages = adapted.backbone(image)
    nearest = peak(join(adapted.memory(stages)[0]))
    unit: list[Tensor] = [
        gaussian(stage) for gaussian, stage in zip(adapted.gaussians.patches, unit_patches(stages)[:2], strict=False)
    ]
    patch = peak(join(unit))
    pooled, _ = adapted.gaussians(stages)
    parts = torch.stack([nearest, patch, torch.stack(pooled).mean(dim=0)])
    expected = (torch.tensor([[1.0], [0.3], [0.02]]) * parts / adapted.score_spread[:, None]).sum(dim=0)
    torch.testing.assert_close(adapted(image).image_score, expected)

    held_out = []  # the patch score of the first view of every image, by Gaussians of the other images
    features = adapted.backbone(normal.image)
    for out in range(3):
        rest = [index for index in range(6) if index // 2 != out]
        maps = []
        for stage in unit_patches(features)[:2]:
            reference = LedoitWolf().fit(stage[rest].movedim(1, 3).reshape(-1, stage.shape[1]).double().numpy())
            squared = reference.mahalanobis(stage[2 * out].flatten(1).T.double().numpy())
            maps.append(torch.from_numpy(np.sqrt(squared)).float().view(1, *stage.shape[2:]))
        held_out.append(peak(join(maps)).squeeze())
    torch.testing.assert_close(adapted.score_spread[1], torch.stack(held_out).mean(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_without_the_memory_the_map_is_the_gaussians() -> None:
    normal, image = support(num_images=3, views=2), support(2, 1, seed=1).image
    with_memory, without = method(steps=0), method(steps=0, memory_weight=0.0)
    for adapted in (with_memory, without):
        adapted.calibrate(normal)
    before = without(image)
    without.memory.get_buffer("stage0").add_(1)
    assert torch.equal(before.anomaly_map, without(image).anomaly_map)
    assert torch.equal(before.image_score, without(image).image_score)
    assert not torch.allclose(before.anomaly_map, with_memory(image).anomaly_map)


def fit(tiny_root: Path, *options: str, seed: int = 0) -> GaussianAD:
    size = ["--data.image_size=64", "--data.shots=4", "--trainer.accelerator=cpu", f"--seed_everything={seed}"]
    where = [
        f"--data.root={tiny_root}",
        "--data.category=alpha",
        "--model.init_args.support_views=2",
        "--model.init_args.pseudo_anomalies=[cutout]",
    ]
    quiet = ["--trainer.enable_progress_bar=false"]
    cli = build(resolve("gaussian", [*where, *size, *quiet, *(f"--model.init_args.{option}" for option in options)]))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert isinstance(cli.model, GaussianAD)
    return cli.model


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_the_best_state_is_restored(tiny_root: Path) -> None:
    tuned = fit(tiny_root, "steps=4", "check_every=2", "learning_rate=0.01", "patience=9")
    assert tuned.stop.curve[:, 0].tolist() == [0, 2, 4]
    curve = dict(tuned.stop.curve.tolist())
    assert curve[float(tuned.stop.best_step)] >= curve[0]  # the best one but for noise, see `SupportStop`
    again = fit(tiny_root, f"steps={int(tuned.stop.best_step)}", "learning_rate=0.01", "patience=0")
    if tuned.stop.best_step == 0:
        assert torch.equal(parameters(tuned.backbone), parameters(Backbone()))
    assert tuned.stop.best_step == 0 or torch.equal(parameters(tuned.backbone), parameters(again.backbone))


def test_patience_ends_the_training(tiny_root: Path) -> None:
    destroyed = fit(tiny_root, "steps=50", "check_every=1", "learning_rate=1.0", "patience=2")
    assert len(destroyed.stop.curve) <= 6
    assert destroyed.stop.best_step < 4


def test_held_out_images_teach_nothing(tiny_root: Path) -> None:
    adapted = method(steps=1)
    normal = support(num_images=4, views=2)
    adapted.prepare(normal)
    assert adapted.stop.held_out is not None
    assert len(adapted.stop.held_out.paths) == 1
    held_out = [path in adapted.stop.held_out.paths for path in normal.path]
    assert sum(held_out) == 2
    adapted.log_dict = adapted.log = lambda *_, **__: None  # type: ignore[method-assign,assignment] # there is no trainer
    adapted._check = lambda: 0.0  # type: ignore[method-assign]
    some = torch.tensor(held_out)
    alone = Batch(
        normal.image[some],
        normal.mask[some],
        normal.label[some],
        [p for p, out in zip(normal.path, held_out, strict=True) if out],
    )
    assert adapted.training_step(alone, 0) == 0
    whole = adapted.training_step(normal, 0)
    other = normal._replace(image=torch.where(some[:, None, None, None], 1 - normal.image, normal.image))
    assert torch.equal(whole, adapted.training_step(other, 0))
    assert whole > 0


def test_one_view_of_one_image_is_enough_to_run(tiny_root: Path) -> None:
    adapted = fit(tiny_root, "steps=2", "support_views=1")
    assert adapted.is_calibrated
    single = method(steps=0)
    with torch.no_grad():
        single.calibrate(support(1, 1))
        assert single(support(2, 1, seed=1).image).image_score.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pseudo_anomalies": ["glitter"]}, "choose among cutmix"),
        ({"memory_weight": -1.0}, "memory_weight=-1.0"),
        ({"memory_weight": 0.0, "patch_weight": 0.0, "pooled_weight": 0.0}, "one above"),
        ({"check_every": 0}, "check_every=0"),
        ({"patience": -1}, "patience=-1"),
    ],
)
def test_wrong_numbers_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianAD(Backbone(weights="none"), **options)  # type: ignore[arg-type] # that is what is tested


@pytest.mark.slow
def test_scores_do_not_hang_on_brightness(shared_data: Path) -> None:
    cli = build(
        resolve(
            "gaussian",
            [f"--data.root={shared_data / 'mvtec_ad'}", "--data.category=screw", "--model.init_args.steps=0"],
        )
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    module = cli.model.eval().requires_grad_(False)
    batches = list(cli.datamodule.test_dataloader())[::3]  # in every part of the test split
    label = torch.cat([batch.label for batch in batches])
    assert 0 < label.float().mean() < 1
    auroc = {
        gain: roc_auc_score(
            label, torch.cat([module((gain * batch.image).clamp(0, 1)).image_score for batch in batches])
        )
        for gain in (0.9, 1.0, 1.1)
    }
    assert abs(auroc[0.9] - auroc[1.0]) < 0.05, auroc
    assert abs(auroc[1.1] - auroc[1.0]) < 0.05, auroc
