import os
import subprocess
import sys

import numpy as np
import pytest

from anomaly_zoo.data.transforms import (
    Shape,
    category_shape,
    orientations_of,
    oriented,
    resize,
    resize_mask,
    support_view,
    training_view,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_shrinking_averages_areas() -> None:
    blocks = IMAGE.reshape(16, 2, 16, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(resize(IMAGE, (16, 16)) - blocks).max() <= 0.5


def test_enlarging_is_linear_and_same_size_changes_nothing() -> None:
    ramp = np.repeat(np.linspace(0, 240, 16, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    steps = np.diff(resize(ramp, (32, 32))[0, 2:-2, 0].astype(int))
    assert set(steps) <= {8}
    np.testing.assert_array_equal(resize(IMAGE, (32, 32)), IMAGE)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8)])
def test_one_side_shrinks_and_the_other_grows(shape: tuple[int, int]) -> None:
    stripes = np.zeros((*shape, 3), np.uint8)
    stripes[:, ::2] = 200
    if shape == (64, 8):
        stripes = np.zeros((*shape, 3), np.uint8)
        stripes[::2] = 200
    assert (resize(stripes, (32, 32)) == 100).all()  # nearest or plain linear sampling would alias


def test_masks_take_the_nearest_pixel() -> None:
    mask = RNG.random((30, 30)) < 0.5
    np.testing.assert_array_equal(resize_mask(mask, (10, 10)), mask[1::3, 1::3])  # the centre of every 3 x 3 block
    np.testing.assert_array_equal(resize_mask(mask, (60, 60)), mask.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(resize_mask(mask, (30, 30)), mask)
    wide = RNG.random((10, 30)) < 0.5
    np.testing.assert_array_equal(resize_mask(wide, (10, 10)), wide[:, 1::3])


@pytest.mark.parametrize(
    ("shapes", "image_size", "expected"),
    [
        ([(632, 250)], 256, (416, 160)),
        ([(250, 632)], 256, (160, 416)),
        ([(1000, 100)], 256, (512, 128)),  # at most 4:1
        ([(900, 900)], 300, (300, 300)),  # as it is, whatever its side
        ([(400, 440)], 256, (256, 256)),  # nearly square
        ([(100, 200), (100, 200), (500, 500)], 256, (192, 352)),  # the median
        ([(10, 4000)], 32, (32, 64)),
    ],
)
def test_the_shape_keeps_the_aspect_ratio_at_equal_cost(shapes: list[Shape], image_size: int, expected: Shape) -> None:
    assert category_shape(shapes, image_size) == expected


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (48, 32)])
def test_all_views_keep_the_shape(shape: Shape) -> None:
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    orientations = orientations_of(shape)
    assert orientations == list(range(16)) if shape == (32, 32) else [0, 2, 4, 6, 8, 10, 12, 14]
    views = [oriented(image, orientation) for orientation in orientations]
    views += [training_view(image, seed) for seed in range(30)]
    assert {view.shape for view in views} == {image.shape}
    assert len({view.tobytes() for view in views[: len(orientations)]}) == len(orientations)
    if shape != (32, 32):  # nothing but mirrors and half a turn; each comes now and then
        flips = [views[index] for index in range(4)]
        nearest = [np.argmin([np.abs(flip.astype(int) - view).mean() for flip in flips]) for view in views[8:]]
        assert set(nearest) == {0, 1, 2, 3}


def test_the_first_eight_orientations_are_the_symmetries_of_the_square() -> None:
    elements = [oriented(IMAGE, element) for element in range(8)]
    assert len({element.tobytes() for element in elements}) == 8
    np.testing.assert_array_equal(elements[0], IMAGE)
    np.testing.assert_array_equal(elements[1], np.rot90(IMAGE))
    np.testing.assert_array_equal(elements[4], IMAGE[:, ::-1])
    for element in elements:
        np.testing.assert_array_equal(np.sort(element, axis=None), np.sort(IMAGE, axis=None))


def test_support_views() -> None:
    assert support_view(IMAGE, 0, 7) is IMAGE
    symmetries = range(8)
    for view in range(1, 10):
        seen = support_view(IMAGE, view, view)
        np.testing.assert_array_equal(seen, support_view(IMAGE, view, view, symmetries))
        exact = oriented(IMAGE, view % 8)
        assert not np.array_equal(seen, exact)
        assert np.corrcoef(seen.ravel(), exact.ravel())[0, 1] > 0.95
        np.testing.assert_array_equal(seen, support_view(IMAGE, view, view))
        assert not np.array_equal(seen, support_view(IMAGE, view, view + 1))


def test_support_views_take_the_orientations_in_turn() -> None:
    upright = [support_view(IMAGE, view, view, [0]) for view in range(3)]
    assert all(np.corrcoef(view.ravel(), IMAGE.ravel())[0, 1] > 0.95 for view in upright)
    assert len({view.tobytes() for view in upright}) == 3  # each in its own light
    for view, orientation in ((1, 9), (2, 0), (3, 9)):
        seen, exact = support_view(IMAGE, view, view, [0, 9]), oriented(IMAGE, orientation)
        assert np.corrcoef(seen.ravel(), exact.ravel())[0, 1] > 0.95


def test_orientations_from_8_on_are_turned_by_45_degrees() -> None:
    stripes = np.zeros((65, 65, 3), np.uint8)
    stripes[30:35] = 255  # lies
    diagonal = np.abs(np.add.outer(np.arange(65), np.arange(65)) - 64) <= 2  # rises to the right
    assert oriented(stripes, 8)[diagonal].mean() > 230
    assert oriented(stripes, 8)[~diagonal].mean() < 20
    np.testing.assert_array_equal(oriented(stripes, 8)[:, ::-1], oriented(stripes, 9))
    twice = oriented(oriented(stripes, 8), 8)
    middle = slice(20, 45)
    assert np.corrcoef(twice[middle, middle].ravel(), oriented(stripes, 1)[middle, middle].ravel())[0, 1] > 0.9


def test_training_views_follow_the_seed_alone() -> None:
    views = [training_view(IMAGE, seed) for seed in range(20)]
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    for seed in (19, 3, 0):
        np.testing.assert_array_equal(training_view(IMAGE, seed), views[seed])
    assert len({view.tobytes() for view in views}) == 20
    assert training_view(IMAGE, 2**64 - 1).shape == IMAGE.shape


def test_augmentation_leaves_grey_images_grey_and_the_input_alone() -> None:
    grey = np.repeat(IMAGE[..., :1], 3, axis=2)
    before = grey.copy()
    for seed in range(100):
        for view in (training_view(grey, seed), support_view(grey, 1 + seed, seed)):
            assert (view == view[..., :1]).all()
    np.testing.assert_array_equal(grey, before)


def test_transforms_draw_independently() -> None:
    """The seeding of albumentations gives every transform the same stream: noise would come only with colour jitter."""
    flat = np.full((32, 32, 3), 128, np.uint8)
    views = [training_view(flat, seed) for seed in range(400)]
    noisy = [view for view in views if len(np.unique(view)) > 1]
    assert 50 < len(noisy) < 110  # p = 0.2
    unchanged_brightness = [view for view in noisy if abs(float(view.mean()) - 128) < 0.5]
    assert len(unchanged_brightness) > 0.1 * len(noisy)  # colour jitter has p = 0.8; from one stream it would be 1


def test_albumentations_comes_late_and_asks_no_network() -> None:
    code = (
        "import sys, os, numpy as np;"
        "from anomaly_zoo.data.transforms import training_view;"
        "assert 'albumentations' not in sys.modules;"
        "training_view(np.zeros((8, 8, 3), np.uint8), 0);"
        "assert 'albumentations' in sys.modules;"
        "assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
