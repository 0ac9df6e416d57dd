from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anomaly_zoo.metrics import AUPRO, aupro, auroc
from tests.metrics.reference import reference_aupro

LIMITS = [0.05, 0.3, 1.0]


def diagonals(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Lines that only touch at corners: one region each if 8-connected, one per pixel if 4-connected."""
    y, x = np.indices(shape[1:])
    return np.stack([(x + rng.choice([-1, 1]) * y) % int(rng.integers(2, 6)) == 0 for _ in range(shape[0])])


def rectangles(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for image in mask:
        for _ in range(rng.integers(0, 4)):
            y, x = rng.integers(0, shape[1]), rng.integers(0, shape[2])
            image[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = True
    return mask


def noise(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return rng.random(shape) < rng.uniform(0.02, 0.8)


def single_pixels(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[:, ::2, ::2] = rng.random(mask[:, ::2, ::2].shape) < 0.5
    return mask


LAYOUTS = [diagonals, rectangles, noise, single_pixels]


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """One to three small images with one layout of regions and scores from few to many distinct values."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(2, 12)), int(rng.integers(2, 12)))
    mask = LAYOUTS[seed % len(LAYOUTS)](rng, shape)
    mask[0, 0, 0], mask[0, -1, -1] = True, False
    levels = float(rng.choice([0.5, 1, 2, 5, 50]))
    anomaly_map = np.round((rng.normal(size=shape) + mask * rng.uniform(-1, 3)) * levels) + rng.choice([0, 60])
    return torch.from_numpy(anomaly_map.astype(np.float32)), torch.from_numpy(mask)


@pytest.mark.parametrize("seed", range(200))
def test_equals_slow_reference(seed: int) -> None:
    anomaly_map, mask = random_case(seed)
    for fpr_limit in [*LIMITS, float(np.random.default_rng(seed).uniform(0.01, 1))]:
        expected = reference_aupro(anomaly_map.numpy(), mask.numpy(), fpr_limit)
        assert aupro(anomaly_map, mask, fpr_limit).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_metric_over_batches_equals_function(batch_size: int) -> None:
    anomaly_map, mask = random_case(130)
    assert len(mask) == 3
    metric = AUPRO(fpr_limit=0.5)
    for maps, masks in zip(torch.split(anomaly_map, batch_size), torch.split(mask, batch_size), strict=True):
        metric.update(maps, masks)
    assert torch.equal(metric.compute(), aupro(anomaly_map, mask, fpr_limit=0.5))


def test_default_limit() -> None:
    anomaly_map, mask = random_case(1)
    metric = AUPRO()
    metric.update(anomaly_map, mask)
    assert torch.equal(aupro(anomaly_map, mask), aupro(anomaly_map, mask, fpr_limit=0.3))
    assert torch.equal(metric.compute(), aupro(anomaly_map, mask, fpr_limit=0.3))


def test_regions_weigh_the_same() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, :10, :10] = True
    mask[0, 15, 15] = True
    found_large, found_small = torch.zeros(1, 20, 20), torch.zeros(1, 20, 20)
    found_large[0, :10, :10] = 1
    found_large[0, 15, 15] = -1
    found_small[0, :10, :10] = -1
    found_small[0, 15, 15] = 1
    assert aupro(found_large, mask).item() == pytest.approx(0.5)
    assert aupro(found_small, mask).item() == pytest.approx(0.5)


def test_regions_touching_at_a_corner_are_one() -> None:
    """Three corner-to-corner pixels and one apart: two regions, so the one apart counts half."""
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, [0, 1, 2], [1, 0, 1]] = True
    mask[0, 7, 7] = True
    anomaly_map = torch.zeros(1, 8, 8)
    anomaly_map[0, 7, 7] = 1
    anomaly_map[0, [0, 1, 2], [1, 0, 1]] = -1
    assert aupro(anomaly_map, mask).item() == pytest.approx(0.5)


def test_regions_do_not_join_across_images() -> None:
    """The last row of one image and the first of the next are neighbours in memory only."""
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[0, 2, :] = True
    mask[1, 0, 0] = True
    anomaly_map = torch.where(mask, -1.0, 0.0)
    anomaly_map[1, 0, 0] = 1
    assert aupro(anomaly_map, mask).item() == pytest.approx(0.5)


def test_no_normal_pixel_in_one_image() -> None:
    mask = torch.tensor([[[True, True]], [[False, False]]])
    assert aupro(torch.tensor([[[2.0, 0.0]], [[1.0, 1.0]]]), mask).item() == pytest.approx(0.5)


@pytest.mark.parametrize("fpr_limit", LIMITS)
@pytest.mark.parametrize("seed", range(20))
def test_perfect_and_worst(seed: int, fpr_limit: float) -> None:
    _, mask = random_case(seed)
    assert 1 - 1e-12 <= aupro(mask.float(), mask, fpr_limit).item() <= 1
    assert aupro(-mask.float(), mask, fpr_limit).item() == 0


@given(st.integers(0, 10_000), st.floats(0.01, 1), st.floats(-1e6, 1e6, width=32))
@settings(deadline=None)
def test_constant_map_is_the_diagonal(seed: int, fpr_limit: float, value: float) -> None:
    _, mask = random_case(seed)
    assert aupro(torch.full(mask.shape, value), mask, fpr_limit).item() == pytest.approx(fpr_limit / 2, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_one_region_without_limit_is_pixel_auroc(seed: int) -> None:
    anomaly_map, mask = random_case(seed)
    mask = torch.zeros_like(mask)
    mask[-1, : mask.shape[1] // 2 + 1, 1:] = True
    expected = auroc(anomaly_map.flatten(), mask.flatten()).item()
    assert aupro(anomaly_map, mask, fpr_limit=1.0).item() == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2500))
@settings(deadline=None)
def test_single_pixel_regions_without_limit_are_pixel_auroc(seed: int) -> None:
    anomaly_map, mask = random_case(4 * seed + LAYOUTS.index(single_pixels))
    expected = auroc(anomaly_map.flatten(), mask.flatten()).item()
    assert aupro(anomaly_map, mask, fpr_limit=1.0).item() == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12), st.sampled_from(LIMITS))
@settings(deadline=None)
def test_single_pixel_images(pixels: list[tuple[int, bool]], fpr_limit: float) -> None:
    pixels = [*pixels, (0, True), (0, False)]
    anomaly_map = torch.tensor([[[float(score)]] for score, _ in pixels])
    mask = torch.tensor([[[anomalous]] for _, anomalous in pixels])
    expected = reference_aupro(anomaly_map.numpy(), mask.numpy(), fpr_limit)
    assert aupro(anomaly_map, mask, fpr_limit).item() == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from(LIMITS))
@settings(deadline=None)
def test_only_the_order_counts(seed: int, fpr_limit: float) -> None:
    anomaly_map, mask = random_case(seed)
    value = aupro(anomaly_map, mask, fpr_limit)
    assert torch.equal(aupro(8 * anomaly_map - 100, mask, fpr_limit), value)
    assert torch.equal(aupro(anomaly_map.double() ** 3, mask, fpr_limit), value)


@given(st.integers(0, 10_000), st.sampled_from(LIMITS))
@settings(deadline=None)
def test_orientation_and_image_order_do_not_count(seed: int, fpr_limit: float) -> None:
    anomaly_map, mask = random_case(seed)
    value = pytest.approx(aupro(anomaly_map, mask, fpr_limit).item(), abs=1e-12)
    assert aupro(anomaly_map.flip(0), mask.flip(0), fpr_limit).item() == value
    assert aupro(anomaly_map.flip(2), mask.flip(2), fpr_limit).item() == value
    assert aupro(anomaly_map.mT, mask.mT, fpr_limit).item() == value


def test_input_is_left_alone() -> None:
    anomaly_map, mask = random_case(3)
    map_before, mask_before = anomaly_map.clone(), mask.clone()
    aupro(anomaly_map.requires_grad_(), mask)
    assert torch.equal(anomaly_map, map_before)
    assert torch.equal(mask, mask_before)


@pytest.mark.parametrize("fpr_limit", [0.0, -0.1, 1.01, float("nan")])
def test_limit_out_of_range_raises(fpr_limit: float) -> None:
    message = rf"fpr_limit must be in \(0, 1\], got {fpr_limit}"
    with pytest.raises(ValueError, match=message):
        aupro(*random_case(0), fpr_limit=fpr_limit)
    with pytest.raises(ValueError, match=message):
        AUPRO(fpr_limit=fpr_limit)


@pytest.mark.parametrize(
    ("score", "anomalous", "message"),
    [
        ([1.0, 2.0], [True, True], "got 0 normal and 2 anomalous"),
        ([1.0, 2.0], [False, False], "got 2 normal and 0 anomalous"),
        ([], [], "got 0 normal and 0 anomalous"),
        ([1.0, float("nan")], [False, True], "finite, got nan"),
        ([float("-inf"), 2.0], [False, True], "finite, got -inf"),
    ],
)
def test_undefined_raises(score: list[float], anomalous: list[bool], message: str) -> None:
    anomaly_map, mask = torch.tensor([[score]]), torch.tensor([[anomalous]], dtype=torch.bool)
    metric = AUPRO()
    metric.update(anomaly_map, mask)
    with pytest.raises(ValueError, match=message):
        aupro(anomaly_map, mask)
    with pytest.raises(ValueError, match=message):
        metric.compute()


@pytest.mark.usefixtures("no_type_hook")
@pytest.mark.parametrize(
    ("anomaly_map", "mask", "message"),
    [
        (torch.rand(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.bool), r"got \(1, 2, 2\) and \(1, 2, 3\)"),
        (torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.bool), r"3 dimension.*got \(1, 1, 2, 2\)"),
        (torch.rand(1, 2, 2), torch.zeros(1, 2, 2), r"bool, got torch\.float32"),
    ],
)
def test_wrong_input_raises(anomaly_map: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aupro(anomaly_map, mask)
    with pytest.raises(ValueError, match=message):
        AUPRO().update(anomaly_map, mask)


def test_memory(peak_bytes: Callable[[Callable[[], object]], int]) -> None:
    anomaly_map = torch.randn(16, 256, 256, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(16, 256, 256, dtype=torch.bool)
    mask[4:, 50:115, 50:115] = True
    metric = AUPRO()
    for maps, masks in zip(torch.split(anomaly_map, 4), torch.split(mask, 4), strict=True):
        metric.update(maps, masks)
    assert peak_bytes(lambda: aupro(anomaly_map, mask)) <= 16 * mask.numel()
    assert peak_bytes(metric.compute) <= 16 * mask.numel()
