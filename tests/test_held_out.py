"""Held-out support images, from which units and thresholds come: no fit has seen the image that it scores."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from anomaly_zoo.config import quiet
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.deploy.calibration import tail_quantile
from anomaly_zoo.methods.memory import FrozenMemory
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.memory import PatchMemory
from anomaly_zoo.nn.scoring import as_if_new
from anomaly_zoo.nn.tiling import Tiling
from anomaly_zoo.types import Batch, Distances, Prediction, Stages


class Witness(AnomalyModule):
    """Writes down which images every fit sees, and which are scored after it; images are told by their mean."""

    def __init__(self, backbone: Backbone, support_views: int = 1) -> None:
        super().__init__(backbone, memory=False, support_views=support_views, orientations="symmetries")
        self.folds: list[tuple[set[float], set[float]]] = []

    def features(self, image: Tensor) -> Stages:
        return [image.mean(dim=(1, 2, 3), keepdim=True)]

    def fit(self, features: Stages) -> None:
        self.folds.append((set(features[0].flatten().tolist()), set()))

    def distances(self, features: Stages) -> Distances:
        self.folds[-1][1].update(features[0].flatten().tolist())
        return Distances(patch=[features[0][:, 0]])


def fitted(module: AnomalyModule, data: MVTecDataModule) -> AnomalyModule:
    quick: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet():
        L.Trainer(accelerator="cpu", max_epochs=-1, enable_model_summary=False, **quick).fit(module, datamodule=data)
    return module.eval()


def backbone() -> Backbone:
    return Backbone("resnet18", stages=[1, 2], weights="none")


def means_of(data: MVTecDataModule, views: int = 1) -> Tensor:
    """The means of all views: image, view."""
    return data.support(views).image.mean(dim=(1, 2, 3)).view(-1, views)


@pytest.mark.parametrize("views", [1, 2])
def test_every_image_is_scored_once_by_a_fit_of_the_others(tiny_root: Path, views: int) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=3, image_size=64)
    module = Witness(backbone(), views)
    fitted(module, data)
    means = means_of(data, views)
    assert len(module.folds) == 4
    for number, (seen, scored) in enumerate(module.folds[:3]):
        others = [other for other in range(3) if other != number]
        assert seen == set(means[others].flatten().tolist())
        assert scored == {means[number, 0].item()}  # as it is, without its augmented views
    assert module.folds[-1] == (set(means.flatten().tolist()), set())  # in the end all, and nothing is scored


def test_more_images_than_folds_leave_several_out_at_a_time(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_zoo.nn.validation.MAX_FOLDS", 2)
    data = MVTecDataModule(tiny_root, "alpha", shots=6, image_size=64)
    module = Witness(backbone())
    fitted(module, data)
    means = means_of(data).flatten().tolist()
    assert module.folds[:2] == [(set(means[1::2]), set(means[::2])), (set(means[::2]), set(means[1::2]))]
    assert len(module.held_out_scores) == 6


@pytest.mark.parametrize("views", [1, 8])
def test_a_single_image_is_compared_with_its_own_views(tiny_root: Path, views: int) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=1, image_size=64)
    module = Witness(backbone(), views)
    fitted(module, data)
    means = means_of(data, 8)[0].tolist()
    assert len(module.held_out_scores) == len(module.held_out_peaks) == 7
    for held_out, (seen, scored) in enumerate(module.folds[:-1], start=1):
        assert scored == {means[held_out]}
        assert seen == set(means[:views]) - scored


def scored_without(module: AnomalyModule, data: MVTecDataModule, number: int, num_tiles: int = 1) -> Prediction:
    """Scores an image, or its tiles, with a memory that was fitted to the other images alone."""
    image = data.support().image
    own = list(range(number * num_tiles, (number + 1) * num_tiles))
    others = [place for place in range(len(image)) if place not in own]
    memory = PatchMemory(module.num_stages, module.backbone.finest(module.num_raw_stages))
    with torch.no_grad():
        memory.fit(module.features(image[others]))
        prediction: Prediction = module.scorer([memory(module.features(image[own]))], tuple(image.shape[2:]))
    return prediction


def test_the_memory_does_not_hold_the_image_that_it_is_asked_about(tiny_root: Path) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=3, image_size=64)
    module = fitted(FrozenMemory(backbone(), support_views=1), data)
    levels = []
    for number in range(3):
        anomaly_map, image_score = scored_without(module, data, number)
        assert module.held_out_scores[number].item() == pytest.approx(image_score.item(), rel=1e-5)
        assert module.held_out_peaks[number].item() == pytest.approx(anomaly_map.max().item(), rel=1e-5)
        levels.append(anomaly_map.mean().item())
    assert module.held_out_level.item() == pytest.approx(sum(levels) / 3, rel=1e-5)
    with torch.no_grad():  # the memory that stays holds all of them
        assert (module(data.support().image).image_score < 0.75 * module.held_out_scores).all()


def test_an_image_of_tiles_counts_as_one(tiny_root: Path) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=2, image_size=96, tile_px=64)
    module = fitted(FrozenMemory(backbone(), support_views=1), data)
    assert len(module.held_out_scores) == len(module.held_out_peaks) == 2
    for number in range(2):
        tiles = scored_without(module, data, number, num_tiles=4)
        peak = Tiling((96, 96), 64).stitch(tiles.anomaly_map).max().item()
        assert module.held_out_scores[number].item() == pytest.approx(tiles.image_score.max().item(), rel=1e-5)
        assert module.held_out_peaks[number].item() == pytest.approx(peak, rel=1e-5)


def test_held_out_images_have_distances_of_one_unit(tiny_root: Path) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=4, image_size=64)
    module = fitted(FrozenMemory(backbone(), support_views=1), data)
    assert module.held_out_scores.mean().item() == pytest.approx(1, rel=1e-5)
    assert module.held_out_level.item() == pytest.approx(1, rel=0.1)  # smoothing and resizing hardly move a mean


class Trained(Witness):
    """Notes which files its training saw; every image it has trained on looks far too normal to it."""

    def __init__(self, backbone: Backbone, augmented: bool) -> None:
        AnomalyModule.__init__(self, backbone, steps=6, memory=False, support_views=1, orientations="symmetries")
        self.trains_on_batches = augmented
        self.folds: list[tuple[set[float], set[float]]] = []
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: set[str] = set()
        self.images: set[bytes] = set()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen |= set(batch.path)
        self.images |= {image.numpy().tobytes() for image in batch.image}
        return self.weight.square()


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize(("shots", "num_kept_out"), [(2, 0), (3, 0), (4, 1), (6, 2)])
def test_a_quarter_of_the_support_is_kept_out_of_training(
    shots: int, num_kept_out: int, augmented: bool, tiny_root: Path
) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=shots, image_size=64)
    module = Trained(backbone(), augmented)
    fitted(module, data)
    files = {str(path) for path in data.support_files}
    assert len(module.kept_out) == num_kept_out
    assert module.seen == files - set(module.kept_out)
    plain = {image.numpy().tobytes() for image in data.support().image}
    assert (module.images <= plain) != augmented
    assert len(module.held_out_scores) == shots


def test_scores_of_images_that_were_trained_on_are_made_those_of_new_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = 1 + 0.1 * torch.randn(2000, 8, generator=generator)
    is_new = torch.tensor([True, False, False, False] * 2)
    biased = torch.where(is_new, normal, 0.8 * normal)
    new = 1 + 0.1 * torch.randn(2000, generator=generator)

    def alarms(scores: Tensor) -> float:
        thresholds = torch.tensor([tail_quantile(row.tolist(), 0.05) for row in scores])
        return float((new > thresholds).float().mean())

    assert alarms(normal) == pytest.approx(0.05, abs=0.015)
    assert alarms(biased[:, ~is_new]) > 0.3  # what a threshold from trained images alone would do
    repaired = torch.stack([as_if_new(row, is_new) for row in biased])
    assert 0.001 < alarms(repaired) < 0.06
    torch.testing.assert_close(repaired.mean(dim=1), biased[:, is_new].mean(dim=1))
    assert torch.equal(as_if_new(normal[0], torch.ones(8, dtype=torch.bool)), normal[0])
