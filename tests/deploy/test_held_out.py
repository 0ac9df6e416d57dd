from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.deploy.adapting import make_model
from anomaly_zoo.deploy.held_out import held_out_scores, views_needed
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.methods.patchcore import PatchCore
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.tiling import Tiling, predict_tiles
from anomaly_zoo.types import Batch


def module_on(support: Batch, views: int = 1) -> PatchCore:
    module = PatchCore(Backbone(), support_views=views)
    module.eval()
    module.calibrate(support)
    return module


def part(batch: Batch, chosen: list[int]) -> Batch:
    return Batch(batch.image[chosen], batch.mask[chosen], batch.label[chosen], [batch.path[i] for i in chosen])


@pytest.mark.parametrize("views", [1, 2])
def test_every_image_is_scored_by_a_memory_of_the_others(tiny_root: Path, views: int) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=3, image_size=64)
    support = data.support(views)
    module = module_on(support, views)
    found = held_out_scores(module, support)
    for number in range(3):
        others = [place for place in range(3 * views) if place // views != number]
        anomaly_map, image_score = module_on(part(support, others))(support.image[number * views][None])
        assert found.image_scores[number] == image_score.item()
        assert found.map_peaks[number] == anomaly_map.max().item()
    assert torch.equal(module(support.image).image_score, module_on(support)(support.image).image_score)  # unchanged


def test_more_images_than_folds_leave_several_out_at_a_time(tiny_root: Path) -> None:
    support = MVTecDataModule(tiny_root, "alpha", shots=6, image_size=64).support()
    told: list[tuple[int, int]] = []
    found = held_out_scores(module_on(support), support, max_folds=2, progress=lambda *now: told.append(now))
    assert told == [(1, 2), (2, 2)]
    expected = module_on(part(support, [1, 3, 5]))(support.image[::2]).image_score
    assert found.image_scores[:3] == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("support_views", [1, 8])
def test_a_single_image_is_compared_with_its_own_views(tiny_root: Path, support_views: int) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=1, image_size=64)
    module = module_on(data.support(support_views), support_views)
    support = data.support(*views_needed(module, 1))
    found = held_out_scores(module, support)
    assert len(found.image_scores) == 7
    rest = [0] if support_views == 1 else [0, 1, 3, 4, 5, 6, 7]
    expected = module_on(part(support, rest))(support.image[2:3]).image_score
    assert found.image_scores[1] == expected.item()


def test_an_image_of_tiles_counts_as_one(tiny_root: Path) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=2, image_size=96, tile_px=64)
    support = data.support()
    tiling = Tiling(96, 64)
    found = held_out_scores(module_on(support), support, tiling)
    whole = MVTecDataModule(tiny_root, "alpha", shots=2, image_size=96).support()
    expected = predict_tiles(module_on(part(support, [4, 5, 6, 7])), whole.image[:1], tiling)
    assert found.image_scores[0] == pytest.approx(expected.image_score.item(), rel=1e-5)
    assert found.map_peaks[0] == pytest.approx(expected.anomaly_map.max().item(), rel=1e-5)


def test_every_method_gets_a_threshold(model_of: Callable[..., Model]) -> None:
    for method in ("patchcore", "coft"):
        calibration = model_of(method).calibration
        assert calibration.threshold > max(calibration.image_scores) * 0.9
        assert len(calibration.image_scores) == 4


def test_a_region_of_interest_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "alpha").symlink_to(tiny_root / "alpha")
    (tmp_path / "beta").mkdir()
    (tmp_path / "beta" / "train").symlink_to(tiny_root / "beta" / "train")
    (tmp_path / "beta" / "region.json").write_text('{"polygons": [[[0, 0], [1, 0], [0.5, 1]]]}')
    data = MVTecDataModule(tmp_path, "beta", shots=2, image_size=64)
    with pytest.raises(ValueError, match="has a region of interest, which a model folder cannot hold"):
        make_model(PatchCore(Backbone()), data)
