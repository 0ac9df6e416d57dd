from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.tiling import Tiling, predict_tiles, within_region
from anomaly_zoo.types import Prediction

TILINGS = [
    Tiling((96, 96), 32),
    Tiling((96, 96), 32, 8),
    Tiling((100, 100), 32, 5),
    Tiling((64, 64), 64),
    Tiling((97, 97), 40, 39),
    Tiling((90, 90), 64, 1),
    Tiling((64, 160), 64, 8),
    Tiling((130, 40), 32),
]


@pytest.mark.parametrize("tiling", TILINGS)
def test_tiles_cover_everything_and_overlap_enough(tiling: Tiling) -> None:
    for axis, length in enumerate(tiling.shape):
        starts = sorted({corner[axis] for corner in tiling.corners})
        assert starts[0] == 0
        assert starts[-1] + tiling.tile_px == length
        for first, second in pairwise(starts):
            assert first + tiling.tile_px - second >= tiling.overlap_px
            assert second > first


def test_no_more_tiles_than_needed() -> None:
    assert Tiling((256, 512), 256).corners == [(0, 0), (0, 256)]
    assert Tiling((256, 512), 256, 1).corners == [(0, 0), (0, 128), (0, 256)]
    assert Tiling((256, 256), 256, 255).corners == [(0, 0)]


@pytest.mark.parametrize("tiling", TILINGS)
def test_split_and_stitch_are_inverse(tiling: Tiling) -> None:
    image = torch.rand(2, 3, *tiling.shape)
    tiles = tiling.split(image)
    assert len(tiles) == 2 * len(tiling.corners)
    torch.testing.assert_close(tiling.stitch(tiles[:, 0]), image[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_constant_map_stays_constant(tiling: Tiling) -> None:
    stitched = tiling.stitch(torch.full((3 * len(tiling.corners), tiling.tile_px, tiling.tile_px), 7.25))
    assert (stitched == 7.25).all()


def test_neighbours_that_disagree_leave_no_step() -> None:
    tiling = Tiling((96, 96), 64, 32)
    maps = torch.stack([torch.full((64, 64), float(number)) for number in range(4)])
    stitched = tiling.stitch(maps)[0]
    largest_step = max(float(stitched.diff(dim=axis).abs().max()) for axis in (0, 1))
    assert largest_step <= 2 / 32 + 1e-5  # 2, between the upper and the lower tiles, over the 32 pixels they share
    hard = Tiling((128, 128), 64).stitch(maps)[0]
    assert float(hard.diff(dim=0).abs().max()) == 2  # the test can fail


def brightness(image: Tensor) -> Prediction:
    anomaly_map = image.mean(dim=1)
    return Prediction(anomaly_map, anomaly_map.flatten(1).amax(dim=1))


@pytest.mark.parametrize("tiling", TILINGS)
def test_tiled_prediction_of_a_pixelwise_method_is_the_untiled_one(tiling: Tiling) -> None:
    image = torch.rand(3, 3, *tiling.shape)
    whole, tiled = brightness(image), predict_tiles(brightness, image, tiling)
    torch.testing.assert_close(tiled.anomaly_map, whole.anomaly_map, rtol=0, atol=1e-4)
    torch.testing.assert_close(tiled.image_score, whole.image_score)


def test_never_more_tiles_at_once_than_images() -> None:
    sizes: list[int] = []

    def noting(image: Tensor) -> Prediction:
        sizes.append(len(image))
        return brightness(image)

    predict_tiles(noting, torch.rand(2, 3, 96, 96), Tiling((96, 96), 32))
    assert sizes == [2] * 9


@pytest.mark.parametrize(
    ("tile_px", "overlap_px", "message"),
    [
        (0, 0, "tile_px is 0, images have 96x96 pixels: choose 1 to 96"),
        (97, 0, "tile_px is 97"),
        (32, 32, "overlap_px is 32: choose 0 to 31, less than tile_px"),
        (32, -1, "overlap_px is -1"),
    ],
)
def test_numbers_out_of_range(tile_px: int, overlap_px: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tiling((96, 96), tile_px, overlap_px)


def test_outside_of_the_region_nothing_scores_above_the_inside() -> None:
    region = torch.zeros(2, 8, 8, dtype=torch.bool)
    region[0, 2:5, 2:5] = region[1, :, 3] = True
    before = Prediction(torch.randn(2, 8, 8) - 5, torch.zeros(2))
    after = within_region(before, region)
    torch.testing.assert_close(after.anomaly_map[region], before.anomaly_map[region])
    for scores, inside, old in zip(after.anomaly_map, region, before.anomaly_map, strict=True):
        assert (scores[~inside] == old[inside].min()).all()
