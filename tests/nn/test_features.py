import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from anomaly_zoo.nn.features import join, peak, to_image, unit_patches


def maps(*shapes: tuple[int, int, int], count: int = 2) -> list[Tensor]:
    """Feature maps of these channels, heights and widths."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, *shape, generator=generator) + 0.5 for shape in shapes]


def sample(stage: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear, the border repeated."""
    y, x = min(max(y, 0), stage.shape[1] - 1), min(max(x, 0), stage.shape[2] - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, stage.shape[1] - 1), min(left + 1, stage.shape[2] - 1)
    upper = stage[:, top, left] * (1 - x + left) + stage[:, top, right] * (x - left)
    lower = stage[:, bottom, left] * (1 - x + left) + stage[:, bottom, right] * (x - left)
    return np.asarray(upper * (1 - y + top) + lower * (y - top))


@pytest.mark.parametrize("shape", [(4, 5), (3, 3), (1, 2), (1, 1)])
def test_the_peak_is_how_far_the_highest_patches_stand_out(shape: tuple[int, int]) -> None:
    distance = maps((1, *shape), count=3)[0][:, 0]
    for image, found in zip(distance.double().numpy(), peak(distance), strict=True):
        falling = sorted(image.ravel(), reverse=True)
        expected = np.mean(falling[:3]) - 0.5 * falling[len(falling) // 2]
        assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_light_that_raises_all_distances_moves_the_peak_by_half() -> None:
    distance = maps((1, 8, 8))[0][:, 0]
    torch.testing.assert_close(peak(distance + 4), peak(distance) + 2)


@pytest.mark.parametrize(
    "shapes",
    [[(8, 8), (4, 4), (2, 2)], [(6, 9), (3, 5)], [(5, 3)], [(4, 4), (4, 4)], [(1, 1), (1, 1)]],
)
def test_joined_distances_equal_a_loop_over_positions(shapes: list[tuple[int, int]]) -> None:
    distances = [stage[:, 0].abs() for stage in maps(*((1, *shape) for shape in shapes))]
    joined = join(distances)
    height, width = shapes[0]
    assert joined.shape == (2, height, width)
    for image, y, x in np.ndindex(2, height, width):
        stages = [distance[image, None].double().numpy() for distance in distances]
        at = [sample(s, (y + 0.5) / height * s.shape[1] - 0.5, (x + 0.5) / width * s.shape[2] - 0.5)[0] for s in stages]
        assert joined[image, y, x].item() == pytest.approx(sum(at), rel=1e-5)


def test_no_stage_outvotes_another() -> None:
    fine, coarse = maps((4, 6, 6), (8, 3, 3))
    louder = unit_patches([1000 * fine, 0.01 * coarse])
    for quiet, loud in zip(unit_patches([fine, coarse]), louder, strict=True):
        torch.testing.assert_close(quiet, loud)
        torch.testing.assert_close(loud.square().sum(dim=1), torch.ones_like(loud[:, 0]))


def test_a_position_without_features_stays_finite() -> None:
    assert unit_patches([torch.zeros(1, 4, 5, 5)])[0].isfinite().all()


@pytest.mark.parametrize("size", [(256, 256), (16, 16), (40, 200), (7, 3), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 60.0])
def test_constant_in_constant_out(size: tuple[int, int], value: float) -> None:
    anomaly_map = to_image(torch.full((2, 4, 6), value), size)
    torch.testing.assert_close(anomaly_map, torch.full((2, *size), value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(256, 256), (128, 320), (64, 48)])
def test_map_equals_scipy(size: tuple[int, int]) -> None:
    distance = torch.rand(2, 8, 10, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(distance[:, None], size, mode="bilinear")[:, 0]
    expected = [gaussian_filter(image.double().numpy(), 2.0, mode="mirror", truncate=3.0) for image in resized]
    np.testing.assert_allclose(to_image(distance, size), np.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("size", [(256, 256), (96, 192), (16, 16)])
@pytest.mark.parametrize("place", [(3, 5), (0, 0), (7, 2), (4, 7)])
def test_a_peak_stays_at_its_place(size: tuple[int, int], place: tuple[int, int]) -> None:
    distance = torch.zeros(1, 8, 8)
    distance[0, place[0], place[1]] = 1
    anomaly_map = to_image(distance, size, sigma=1.0 if size[0] < 64 else 4.0)[0]
    row, column = divmod(int(anomaly_map.argmax()), size[1])
    assert (row * 8 // size[0], column * 8 // size[1]) == place


def test_a_wider_gaussian_smooths_more() -> None:
    distance = torch.zeros(1, 16, 16)
    distance[0, 8, 8] = 1
    peaks = [to_image(distance, (128, 128), sigma).max().item() for sigma in (1.0, 4.0, 8.0)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[2] < 0.5 * peaks[0]


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (5, 16), (1, 9)])
def test_images_smaller_than_the_gaussian(size: tuple[int, int]) -> None:
    distance = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    anomaly_map = to_image(distance, size)
    assert anomaly_map.shape == (3, *size)
    assert anomaly_map.isfinite().all()
    assert anomaly_map.amin() >= distance.amin() - 1e-6
    assert anomaly_map.amax() <= distance.amax() + 1e-6


def test_the_map_of_an_image_does_not_depend_on_the_others() -> None:
    distance = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([to_image(image[None], (48, 48)) for image in distance])
    torch.testing.assert_close(to_image(distance, (48, 48)), alone, rtol=1e-6, atol=0)
