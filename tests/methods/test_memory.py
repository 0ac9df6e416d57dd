from pathlib import Path

import pytest
import torch
from torch import Tensor

from anomaly_zoo.methods.memory import FrozenMemory, PatchCore
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.scoring import maximum, mean_map, peak, to_image
from tests.methods.fitting import IMAGE, create, fit, fitted_views, nearest, patches, same, scores


def by_hand(module: AnomalyModule, normal: Tensor, asked: Tensor, num_raw: int) -> list[Tensor]:
    """Distances of every stage at unit length, then those of the finest stages as they are."""
    stages = zip(module.backbone(normal), module.backbone(asked), strict=True)
    unit, raw = zip(*(nearest(*stage) for stage in stages), strict=True)
    return [*unit, *raw[:num_raw]]


@pytest.mark.parametrize(("kind", "views", "num_raw"), [(FrozenMemory, 2, 2), (FrozenMemory, 1, 2), (PatchCore, 1, 0)])
def test_scores_are_the_memory_s_in_units_of_held_out_images(
    kind: type[AnomalyModule], views: int, num_raw: int, tiny_root: Path
) -> None:
    module = fit(create(kind, support_views=views), tiny_root, shots=3)
    normal = fitted_views(module).image
    assert len(normal) == 3 * views
    folds = []  # every image as it is against all views of the others
    for out in range(3):
        rest = [index for index in range(len(normal)) if index // views != out]
        folds.append(by_hand(module, normal[rest], normal[views * out][None], num_raw))
    held_out = [torch.cat(distance) for distance in zip(*folds, strict=True)]
    units = [distance.mean() for distance in held_out]
    normal_units, asked_units = (
        [distance / unit for distance, unit in zip(distances, units, strict=True)]
        for distances in (held_out, by_hand(module, normal, IMAGE, num_raw))
    )
    pool = maximum if kind is PatchCore else peak
    score = pool(mean_map(asked_units[:3])) / pool(mean_map(normal_units[:3])).mean()
    found = scores(module)
    torch.testing.assert_close(found.image_score, score, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.anomaly_map, to_image(mean_map(asked_units), (64, 64)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [FrozenMemory, PatchCore])
def test_a_memory_measures_and_trains_nothing_of_its_own(kind: type[AnomalyModule], tiny_root: Path) -> None:
    module = fit(create(kind), tiny_root)
    assert module.distances(module.features(IMAGE)).all() == []
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert module.training_record() == {}
    with pytest.raises(NotImplementedError, match=f"{kind.__name__} has no training step"):
        module.training_step(fitted_views(module), 0)


def test_patchcore_keeps_a_coreset_of_the_images_as_they_are(tiny_root: Path) -> None:
    torch.manual_seed(0)
    module = fit(PatchCore(create(FrozenMemory).backbone, max_patches=40), tiny_root)
    assert module.num_views == 1
    assert module.memory is not None
    rows, coarse = module.memory.get_buffer("stage0"), module.memory.get_buffer("stage2")
    assert (len(rows), len(coarse)) == (40, 4 * 2 * 2)
    every = torch.nn.functional.normalize(patches(module.backbone(fitted_views(module).image)[0])).float()
    to_rows = torch.cdist(every, rows)
    assert (to_rows.amin(dim=0) < 1e-3).all()  # each is a patch of an image
    sample = torch.randperm(len(every), generator=torch.Generator().manual_seed(1))[:40]
    assert to_rows.amin(dim=1).max() < torch.cdist(every, every[sample]).amin(dim=1).max()  # they cover more evenly


@pytest.mark.parametrize("kind", [FrozenMemory, PatchCore])
def test_without_its_memory_nothing_is_left(kind: type[AnomalyModule], tiny_root: Path) -> None:
    with pytest.raises(ValueError, match="without a memory there is no map"):
        fit(create(kind, memory=False), tiny_root)


@pytest.mark.parametrize("kind", [FrozenMemory, PatchCore])
def test_a_checkpoint_gives_the_same_bits(kind: type[AnomalyModule], tiny_root: Path, tmp_path: Path) -> None:
    module = fit(create(kind, max_patches=50), tiny_root)
    module.trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=True)
    assert same(scores(module), scores(kind.load_from_checkpoint(tmp_path / "adapted.ckpt").eval()))


@pytest.mark.parametrize("kind", [FrozenMemory, PatchCore])
def test_there_is_nothing_to_train(kind: type[AnomalyModule], tiny_root: Path) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} has nothing to train: steps=2 must be 0"):
        fit(create(kind, steps=2), tiny_root)
