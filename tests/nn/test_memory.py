from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.memory import PatchMemory, greedy_coreset
from tests.nn.patches import devices, patches


def slow_greedy_coreset(candidates: Tensor, size: int) -> list[int]:
    """Greedy k-center by its definition: every step looks at all pairs anew."""
    points = candidates.double().numpy()
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmax())]
    while len(chosen) < size:
        left = [index for index in range(len(points)) if index not in chosen]
        to_chosen = [min(np.linalg.norm(points[index] - points[other]) for other in chosen) for index in left]
        chosen.append(left[int(np.argmax(to_chosen))])
    return chosen


def covering_radius(candidates: Tensor, chosen: Tensor) -> float:
    return float(torch.cdist(candidates.double(), candidates[chosen].double()).amin(dim=1).max())


@devices
@pytest.mark.parametrize(("count", "length", "size"), [(150, 8, 30), (60, 32, 59), (80, 1, 5), (40, 2, 1)])
@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_coreset_equals_the_definition(device: str, count: int, length: int, size: int, offset: float) -> None:
    candidates = patches(count, length, offset=offset)
    assert greedy_coreset(candidates.to(device), size).tolist() == slow_greedy_coreset(candidates, size)


def test_coreset_without_projection_equals_the_definition() -> None:
    candidates = patches(60, 100)
    assert greedy_coreset(candidates, 20, num_projected=100).tolist() == slow_greedy_coreset(candidates, 20)
    assert greedy_coreset(candidates, 20).tolist() != slow_greedy_coreset(candidates, 20)


def test_coreset_of_projected_patches_covers_better_than_chance() -> None:
    spread = torch.logspace(0, -2, 150)  # as in features, few directions hold most of the variance
    candidates = torch.cat([patches(900, 150) * spread, patches(30, 150, seed=1) * spread * 4])
    generator = torch.Generator().manual_seed(0)
    chance = [covering_radius(candidates, torch.randperm(930, generator=generator)[:60]) for _ in range(20)]
    ours = covering_radius(candidates, greedy_coreset(candidates, 60))
    assert ours < min(chance)
    assert ours < 0.7 * median(chance)


def test_coreset_does_not_touch_or_follow_the_global_seed() -> None:
    candidates = patches(200, 64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = greedy_coreset(candidates, 50)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(greedy_coreset(candidates, 50), first)


@pytest.mark.parametrize("length", [4, 64])
@pytest.mark.parametrize("size", [10, 11, 1000])
def test_a_size_that_holds_all_keeps_all_in_order(length: int, size: int) -> None:
    assert greedy_coreset(patches(10, length), size).tolist() == list(range(10))


@pytest.mark.parametrize("length", [3, 64])
def test_copies_are_taken_last_and_nothing_twice(length: int) -> None:
    candidates = patches(6, length).repeat(5, 1)
    chosen = greedy_coreset(candidates, 25)
    assert sorted(index % 6 for index in chosen[:6].tolist()) == list(range(6))
    assert len(set(chosen.tolist())) == 25
    assert len(set(greedy_coreset(torch.ones(20, length), 15).tolist())) == 15


def feature_maps(*shapes: tuple[int, int, int], count: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=generator) for shape in shapes]


def test_memory_remembers_patches_of_every_stage_and_measures_the_distance_to_them() -> None:
    shapes = (5, 6, 8), (7, 3, 4)
    memory, support, queries = PatchMemory(2, num_raw=1), feature_maps(*shapes), feature_maps(*shapes, count=2, seed=1)
    memory.fit(support, size=20)
    unit, raw = memory(queries)
    assert [distance.shape for distance in unit + raw] == [(2, 6, 8), (2, 3, 4), (2, 6, 8)]
    for stage, (normal, feature) in enumerate(zip(support, queries, strict=True)):
        kept = getattr(memory, f"stage{stage}")
        patches = torch.stack([normal[i, :, y, x] for i in range(4) for y, x in np.ndindex(shapes[stage][1:])])
        directions = patches / patches.norm(dim=1, keepdim=True)
        chosen = greedy_coreset(directions, 20)
        torch.testing.assert_close(kept, directions[chosen])
        for i, y, x in np.ndindex(*unit[stage].shape):
            patch = feature[i, :, y, x]
            to_rows = (patch / patch.norm() - directions[chosen]).norm(dim=1)
            nearest = to_rows.topk(4, largest=False)
            assert unit[stage][i, y, x].item() == pytest.approx(nearest.values[:3].mean().item(), rel=1e-5)
            if stage == 0:  # as they are, to the patches that are nearest at unit length
                weight = nearest.values[3] - nearest.values[:3]
                as_they_are = (patch - patches[chosen][nearest.indices[:3]]).norm(dim=1)
                expected = ((weight * as_they_are).sum() / weight.sum()).item()
                assert raw[0][i, y, x].item() == pytest.approx(expected, rel=1e-4)


def test_two_rows_that_are_equally_near_make_no_leap() -> None:
    memory = PatchMemory(1, num_raw=1)
    memory.fit([feature_maps((2, 40, 40), count=1)[0]], size=60)
    angle = torch.linspace(0, 6.28, 20001)
    query = torch.stack([angle.cos(), angle.sin()])[None, :, :, None]
    for distances in memory([query]):
        steps = distances[0].flatten().diff().abs()
        assert steps.max() < 0.01 * distances[0].max()
        assert distances[0].max() > 10 * steps.median()


def test_as_many_candidates_as_rows_make_a_random_sample() -> None:
    memory, support = PatchMemory(1, num_raw=1), feature_maps((4, 5, 5))
    memory.fit(support, size=30, num_candidates=30)
    drawn = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:30]
    patches = support[0].movedim(1, 3).flatten(0, 2)[drawn]
    rows, length = memory.buffers()
    torch.testing.assert_close(rows * length[:, None], patches)


def test_memory_is_kept_by_the_state_dict_and_does_not_share_the_patches() -> None:
    memory, support = PatchMemory(1), feature_maps((4, 3, 3))
    memory.fit(support, size=100)
    kept = memory.state_dict()["stage0"].clone()
    support[0].zero_()
    assert kept.shape == (36, 4)
    assert torch.equal(memory.state_dict()["stage0"], kept)
    assert kept.any()


def test_an_empty_memory_says_so() -> None:
    with pytest.raises(RuntimeError, match="memory is empty: fit it on the support first"):
        PatchMemory(1)(feature_maps((4, 2, 2)))
