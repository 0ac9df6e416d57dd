from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from anomaly_zoo.nn.scoring import Pooling, Scorer, maximum, mean_map, peak, to_image
from anomaly_zoo.types import Distances, Prediction

SIZE = 14, 12
Grids = Sequence[tuple[int, int]]

FINE, COARSE = (6, 5), (3, 2)
# what a method's own distances and the memory's may be: grids of patch and detail distances, number of image distances
COMBINATIONS: dict[str, list[tuple[Grids, Grids, int]]] = {
    "pf and memory": [([FINE, COARSE], [FINE], 0), ([FINE, COARSE], [FINE], 0)],
    "coft and memory": [((), [FINE, COARSE], 1), ([FINE, COARSE], [FINE, FINE], 0)],
    "gaussian alone": [((), [COARSE, COARSE], 3)],
    "all kinds, coarser than the memory": [([COARSE], [COARSE], 2), ([FINE], (), 0)],
    "details alone beside the memory": [((), [FINE], 0), ([COARSE], (), 0)],
    "image distances alone beside the memory": [((), (), 2), ([COARSE], (), 0)],
    "memory alone": [([FINE, COARSE], (), 0)],
}
combinations = pytest.mark.parametrize("kinds", COMBINATIONS.values(), ids=COMBINATIONS)


def draw(kinds: Sequence[tuple[Grids, Grids, int]], num_images: int, seed: int) -> list[Distances]:
    """Distances of images in units that differ by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)

    def some(number: int, *shape: int) -> Tensor:
        return 10.0 ** (number % 5 - 2) * (torch.rand(num_images, *shape, generator=generator) + 0.1)

    return [
        Distances(
            patch=[some(number, *grid) for number, grid in enumerate(patch)],
            detail=[some(number + 3, *grid) for number, grid in enumerate(detail)],
            image=[some(number + 1) for number in range(num_image)],
        )
        for patch, detail, num_image in kinds
    ]


def fitted(groups: Sequence[Distances], pooling: Pooling = "peak") -> Scorer:
    scorer = Scorer(pooling)
    scorer.fit(groups)
    return scorer


# The reference: one image at a time, in numpy.


def resized(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, the border repeated."""

    def sample(y: float, x: float) -> float:
        y, x = min(max(y, 0), grid.shape[0] - 1), min(max(x, 0), grid.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
        upper = grid[top, left] * (1 - x + left) + grid[top, right] * (x - left)
        lower = grid[bottom, left] * (1 - x + left) + grid[bottom, right] * (x - left)
        return float(upper * (1 - y + top) + lower * (y - top))

    rows, columns = ([(i + 0.5) / n * m - 0.5 for i in range(n)] for n, m in zip(size, grid.shape, strict=True))
    return np.array([[sample(y, x) for x in columns] for y in rows])


def mean_of_grids(grids: list[np.ndarray]) -> np.ndarray:
    finest = max((grid.shape for grid in grids), key=lambda shape: shape[0] * shape[1])
    return np.asarray(np.mean([resized(grid, finest) for grid in grids], axis=0))


def peak_of(grid: np.ndarray) -> float:
    falling = sorted(grid.ravel(), reverse=True)
    return float(np.mean(falling[:3]) - 0.5 * falling[len(falling) // 2])


def reference(held_out: list[Distances], asked: list[Distances]) -> tuple[np.ndarray, np.ndarray]:
    """Map and image score of every asked image."""
    num_asked = len(asked[0].all()[0])
    maps: list[list[np.ndarray]] = [[] for _ in range(num_asked)]
    scores: list[list[float]] = [[] for _ in range(num_asked)]
    for normal, group in zip(held_out, asked, strict=True):
        units = [[d.double().mean().item() for d in kind] for kind in normal]
        kinds = zip(normal, group, units, strict=True)
        patch, detail, image = (
            [
                (of_normal.double().numpy() / unit, of_asked.double().numpy() / unit)
                for of_normal, of_asked, unit in zip(*kind, strict=True)
            ]
            for kind in kinds
        )
        num_normal = len(normal.all()[0])
        peaks = [peak_of(mean_of_grids([d[i] for d, _ in patch])) for i in range(num_normal)] if patch else [1.0]
        for i in range(num_asked):
            if patch or detail:
                maps[i].append(mean_of_grids([d[i] for _, d in patch + detail]))
            parts = [peak_of(mean_of_grids([d[i] for _, d in patch])) / np.mean(peaks)] if patch else []
            parts += [float(np.mean([d[i] for _, d in image]))] if image else []
            scores[i] += [float(np.mean(parts))] if parts else []
    joined = [resized(mean_of_grids(of_image), SIZE) for of_image in maps]
    smooth = [gaussian_filter(one, 2.0, mode="mirror", truncate=3.0) for one in joined]
    return np.stack(smooth), np.array([np.mean(of_image) for of_image in scores])


@combinations
def test_map_and_score_equal_the_formula(kinds: Sequence[tuple[Grids, Grids, int]]) -> None:
    held_out, asked = draw(kinds, 5, seed=0), draw(kinds, 3, seed=1)
    anomaly_map, image_score = fitted(held_out)(asked, SIZE)
    expected_map, expected_score = reference(held_out, asked)
    np.testing.assert_allclose(anomaly_map, expected_map, rtol=1e-4)
    np.testing.assert_allclose(image_score, expected_score, rtol=1e-4)


@combinations
def test_every_held_out_distance_has_mean_1(kinds: Sequence[tuple[Grids, Grids, int]]) -> None:
    held_out = draw(kinds, 5, seed=0)
    scorer = fitted(held_out)
    unit = [d.mean() for group in held_out for d in group.all()]
    torch.testing.assert_close(scorer.unit, torch.stack(unit))
    prediction = scorer(held_out, SIZE)
    assert prediction.image_score.mean().item() == pytest.approx(1, abs=1e-5)
    assert prediction.anomaly_map.mean().item() == pytest.approx(1, abs=0.15)  # but for the weights of the border


@combinations
@pytest.mark.parametrize("factor", [0.01, 3.0, 4096.0])
def test_the_unit_of_a_distance_changes_no_score(kinds: Sequence[tuple[Grids, Grids, int]], factor: float) -> None:
    held_out, asked = draw(kinds, 5, seed=0), draw(kinds, 3, seed=1)
    expected = fitted(held_out)(asked, SIZE)
    for number in range(len(held_out[0].all())):  # of the first ones alone, up to all of them

        def scaled(groups: list[Distances], chosen: int = number) -> list[Distances]:
            own = iter(enumerate(groups[0].all()))
            kinds = ([d * factor if at <= chosen else d for _ in kind for at, d in [next(own)]] for kind in groups[0])
            return [Distances(*kinds), *groups[1:]]

        found = fitted(scaled(held_out))(scaled(asked), SIZE)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


def test_own_distances_and_memory_count_equally_however_many_they_are() -> None:
    """Own distances that double add half of what a map and a score had, whether they are one or seven."""
    memory = Distances(patch=[torch.ones(2, *FINE)] * 3, detail=[torch.ones(2, *FINE)])
    for count in (1, 7):
        own = Distances(patch=[torch.ones(2, *FINE)] * count, image=[torch.ones(2)] * count)
        scorer = fitted([own, memory])
        far = Distances(*([2 * d for d in kind] for kind in own))
        for part in scorer([far, memory], SIZE):
            torch.testing.assert_close(part, torch.full_like(part, 1.5))


@combinations
@pytest.mark.parametrize("pooling", ["peak", "maximum"])
def test_images_of_a_batch_do_not_influence_each_other(
    kinds: Sequence[tuple[Grids, Grids, int]], pooling: Pooling
) -> None:
    scorer, asked = fitted(draw(kinds, 5, seed=0), pooling), draw(kinds, 4, seed=1)
    together = scorer(asked, SIZE)
    alone = [
        scorer([Distances(*([d[i : i + 1] for d in kind] for kind in group)) for group in asked], SIZE)
        for i in range(4)
    ]
    expected = Prediction(*(torch.cat(parts) for parts in zip(*alone, strict=True)))
    for one, other in zip(together, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_pooling_by_the_maximum() -> None:
    kinds = COMBINATIONS["memory alone"]
    held_out, asked = draw(kinds, 5, seed=0), draw(kinds, 3, seed=1)
    score = fitted(held_out, "maximum")(asked, SIZE).image_score
    in_units = [[d / of_normal.mean() for d, of_normal in zip(group[0].patch, held_out[0].patch, strict=True)]
                for group in (held_out, asked)]  # fmt: skip
    highest = [mean_map(group).amax(dim=(1, 2)) for group in in_units]
    torch.testing.assert_close(score, highest[1] / highest[0].mean())


def test_distances_of_0_leave_finite_scores() -> None:
    copies = [Distances(patch=[torch.zeros(3, *FINE)], image=[torch.zeros(3)])]
    assert all(part.isfinite().all() for part in fitted(copies)(draw([([FINE], (), 1)], 2, seed=0), SIZE))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "measures no patch: without a memory there is no map. Set memory=true"),
        ([Distances(image=[torch.ones(2)])], "measures no patch: without a memory there is no map. Set memory=true"),
        ([Distances(detail=[torch.ones(2, 3, 3)])], "measures details alone: without a memory there is no image score"),
    ],
)
def test_what_gives_no_map_or_no_score_is_refused(groups: list[Distances], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer().fit(groups)


def test_fit_comes_first() -> None:
    with pytest.raises(RuntimeError, match="no units: fit it on held-out support images first"):
        Scorer()(draw(COMBINATIONS["memory alone"], 1, seed=0), SIZE)


@pytest.mark.parametrize("shape", [(4, 5), (3, 3), (1, 2), (1, 1)])
def test_the_peak_is_how_far_the_highest_patches_stand_out(shape: tuple[int, int]) -> None:
    distance = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = [peak_of(image) for image in distance.double().numpy()]
    np.testing.assert_allclose(peak(distance), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(maximum(distance), distance.numpy().max(axis=(1, 2)))


def test_light_that_raises_all_distances_moves_the_peak_by_half() -> None:
    distance = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(peak(distance + 4), peak(distance) + 2)


@pytest.mark.parametrize(
    "grids",
    [[(8, 8), (4, 4), (2, 2)], [(3, 5), (6, 9)], [(5, 3)], [(4, 4), (4, 4)], [(1, 1), (1, 1)]],
)
def test_the_mean_map_equals_a_loop_over_positions(grids: Grids) -> None:
    generator = torch.Generator().manual_seed(0)
    distances = [torch.rand(2, *grid, generator=generator) for grid in grids]
    expected = [mean_of_grids([distance[i].double().numpy() for distance in distances]) for i in range(2)]
    np.testing.assert_allclose(mean_map(distances), np.stack(expected), rtol=1e-5)


@pytest.mark.parametrize("size", [(256, 256), (16, 16), (40, 200), (7, 3), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 60.0])
def test_constant_in_constant_out(size: tuple[int, int], value: float) -> None:
    anomaly_map = to_image(torch.full((2, 4, 6), value), size)
    torch.testing.assert_close(anomaly_map, torch.full((2, *size), value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(256, 256), (128, 320), (64, 48)])
def test_map_equals_scipy(size: tuple[int, int]) -> None:
    distance = torch.rand(2, 8, 10, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(distance[:, None], size, mode="bilinear")[:, 0]
    expected = [gaussian_filter(image.double().numpy(), 2.0, mode="mirror", truncate=3.0) for image in large]
    np.testing.assert_allclose(to_image(distance, size), np.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("size", [(256, 256), (96, 192), (16, 16)])
@pytest.mark.parametrize("place", [(3, 5), (0, 0), (7, 2), (4, 7)])
def test_the_highest_value_stays_at_its_place(size: tuple[int, int], place: tuple[int, int]) -> None:
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
