"""How an adapted method scores normal images that it was not calibrated on, from the support alone."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from anomaly_zoo.deploy.model_folder import copy_of
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.orientation import NUM_SYMMETRIES
from anomaly_zoo.nn.tiling import Tiling
from anomaly_zoo.nn.validation import held_out_folds
from anomaly_zoo.types import Batch

MAX_FOLDS = 4
VIEWS_OF_ONE = 8
"""Views of a single support image, since there is no other image to leave out."""


class HeldOutScores(NamedTuple):
    """Scores of normal images, each by a calibration that did not see it.

    Attributes:
        image_scores: one per support image; of a single image, one per augmented view.
        map_peaks: the largest value of each one's anomaly map.
        map_means: the mean value of each one's anomaly map.
    """

    image_scores: list[float]
    map_peaks: list[float]
    map_means: list[float]


def views_needed(module: AnomalyModule, shots: int) -> tuple[int, list[int]]:
    """How many views of every support image `held_out_scores` wants, and their orientations."""
    if shots > 1:
        return module.num_views, module.found_orientations.tolist()
    return max(module.num_views, VIEWS_OF_ONE), list(range(NUM_SYMMETRIES))


@torch.no_grad()
def held_out_scores(
    module: AnomalyModule,
    support: Batch,
    tiling: Tiling | None = None,
    max_folds: int = MAX_FOLDS,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutScores:
    """Calibrates a copy of the module without some support images, scores those, and so on until each was left out.

    Only `calibrate` is repeated. A backbone that was fine-tuned has seen all images, so its scores of them are a little
    too low, while each calibration lacks images, so that its scores are a little too high.

    Args:
        module: adapted to the support; not changed.
        support: `views_needed` views of every image (and of every tile of it), in the order of the datamodule.
        tiling: how images were cut, if they were.
        max_folds: how many calibrations at most; with more images, several are left out at a time.
        progress: told how many folds are done, and of how many.
    """
    shots, num_tiles = len(set(support.path)), len(tiling.corners) if tiling else 1
    image = torch.unflatten(support.image.cpu(), 0, (shots, num_tiles, -1))
    path = support.path[:: num_tiles * image.shape[2]]
    copy = copy_of(module)
    scores = HeldOutScores([], [], [])
    folds = list(_folds(shots, image.shape[2], module.num_views, max_folds))
    for done, (rest_images, rest_views, held_out) in enumerate(folds):
        rest = image[rest_images][:, :, rest_views]
        owners = [path[number] for number in rest_images for _ in range(num_tiles * len(rest_views))]
        copy.calibrate(_normal(rest.flatten(0, 2), owners))
        for number, view in held_out:
            prediction = copy(image[number, :, view])
            anomaly_map = tiling.stitch(prediction.anomaly_map) if tiling else prediction.anomaly_map
            scores.image_scores.append(prediction.image_score.max().item())
            scores.map_peaks.append(anomaly_map.max().item())
            scores.map_means.append(anomaly_map.mean().item())
        if progress is not None:
            progress(done + 1, len(folds))
    return scores


def _folds(
    shots: int, num_views: int, support_views: int, max_folds: int
) -> Iterator[tuple[list[int], list[int], list[tuple[int, int]]]]:
    """Images and views to calibrate on, and the (image, view) pairs to score."""
    views = list(range(support_views))
    if shots == 1:
        for held_out in range(1, num_views):
            yield [0], [view for view in views if view != held_out], [(0, held_out)]
        return
    for fold in held_out_folds(torch.arange(shots), max_folds):
        yield _indices(~fold), views, [(number, 0) for number in _indices(fold)]


def _indices(chosen: Tensor) -> list[int]:
    found: list[int] = chosen.nonzero()[:, 0].tolist()
    return found


def _normal(image: Tensor, path: list[str]) -> Batch:
    mask = torch.zeros(len(image), *image.shape[2:], dtype=torch.bool)
    return Batch(image, mask, torch.zeros(len(image), dtype=torch.bool), path)
