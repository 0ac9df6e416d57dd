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


def rows_by_hand(support: list[Tensor], max_patches: int, coreset: bool) -> list[tuple[Tensor, Tensor]]:
    """Of every stage the kept patches, in their order, and the image that each stems from."""
    kept = []
    for feature in support:
        num_images, _, height, width = feature.shape
        patches = torch.stack([feature[i, :, y, x] for i, y, x in np.ndindex(num_images, height, width)])
        owner = torch.arange(num_images).repeat_interleave(height * width)
        drawn = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))
        drawn = drawn if coreset else drawn[:max_patches]
        if coreset:
            directions = patches[drawn] / patches[drawn].norm(dim=1, keepdim=True)
            drawn = drawn[slow_greedy_coreset(directions, max_patches)]
        kept.append((patches[drawn], owner[drawn]))
    return kept


@pytest.mark.parametrize("coreset", [False, True])
@pytest.mark.parametrize("num_raw", [0, 1, 2])
def test_distances_are_those_to_the_nearest_kept_patches(coreset: bool, num_raw: int) -> None:
    shapes = (5, 6, 8), (7, 3, 4)
    memory = PatchMemory(2, range(num_raw), max_patches=20, coreset=coreset)
    support, queries = feature_maps(*shapes), feature_maps(*shapes, count=2, seed=1)
    memory.fit(support)
    unit, raw, image = memory(queries)
    assert [distance.shape for distance in unit + raw] == [(2, 6, 8), (2, 3, 4), *[(2, 6, 8), (2, 3, 4)][:num_raw]]
    assert not image
    for stage, (rows, _) in enumerate(rows_by_hand(support, 20, coreset)):
        for i, y, x in np.ndindex(*unit[stage].shape):
            patch = queries[stage][i, :, y, x]
            to_rows = (patch / patch.norm() - rows / rows.norm(dim=1, keepdim=True)).norm(dim=1)
            nearest = to_rows.topk(4, largest=False)
            assert unit[stage][i, y, x].item() == pytest.approx(nearest.values[:3].mean().item(), rel=1e-5)
            if stage < num_raw:  # as they are, to the patches that are nearest at unit length
                weight = nearest.values[3] - nearest.values[:3]
                as_they_are = (patch - rows[nearest.indices[:3]]).norm(dim=1)
                expected = ((weight * as_they_are).sum() / weight.sum()).item()
                assert raw[stage][i, y, x].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("coreset", [False, True])
@pytest.mark.parametrize("held_out", [[0], [3], [1, 2], []])
def test_without_held_out_images_the_other_rows_are_left(coreset: bool, held_out: list[int]) -> None:
    support = feature_maps((5, 6, 8), (7, 3, 4))
    memory = PatchMemory(2, raw=[0], max_patches=30, coreset=coreset)
    images = memory.fit(support)
    before = {name: value.clone() for name, value in memory.named_buffers()}
    rest = dict(memory.without(torch.isin(torch.arange(4), torch.tensor(held_out)), images).named_buffers())
    for stage, (rows, owner) in enumerate(rows_by_hand(support, 30, coreset)):
        kept = rows[[number not in held_out for number in owner.tolist()]]
        assert (len(kept) < 30) == bool(held_out)
        torch.testing.assert_close(rest[f"stage{stage}"], kept / kept.norm(dim=1, keepdim=True))
        if stage == 0:
            torch.testing.assert_close(rest["length0"], kept.norm(dim=1))
    assert all(torch.equal(value, before[name]) for name, value in memory.named_buffers())


def test_without_images_a_memory_measures_as_one_of_the_others() -> None:
    """A memory that holds all patches, so that a fit to the others keeps the same ones."""
    shapes = (5, 6, 8), (7, 3, 4)
    support, queries = feature_maps(*shapes), feature_maps(*shapes, count=2, seed=1)
    held_out = torch.tensor([False, True, False, True])
    memory, others = PatchMemory(2, raw=[0, 1]), PatchMemory(2, raw=[0, 1])
    images = memory.fit(support)
    others.fit([stage[~held_out] for stage in support])
    for found, expected in zip(memory.without(held_out, images)(queries).all(), others(queries).all(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_two_rows_that_are_equally_near_make_no_leap() -> None:
    memory = PatchMemory(1, raw=[0], max_patches=60, coreset=True)
    memory.fit(feature_maps((2, 40, 40), count=1))
    angle = torch.linspace(0, 6.28, 20001)
    query = torch.stack([angle.cos(), angle.sin()])[None, :, :, None]
    for distance in memory([query]).all():
        steps = distance[0].flatten().diff().abs()
        assert steps.max() < 0.01 * distance.max()
        assert distance.max() > 10 * steps.median()


@pytest.mark.parametrize("coreset", [False, True])
def test_a_memory_keeps_no_more_than_it_may_and_always_the_same(coreset: bool) -> None:
    first, second = (PatchMemory(2, raw=[0], max_patches=7, coreset=coreset) for _ in range(2))
    for memory in (first, second):
        memory.fit(feature_maps((4, 5, 5), (6, 2, 2)))
    kept = dict(first.named_buffers())
    assert {name: len(value) for name, value in kept.items()} == {"stage0": 7, "stage1": 7, "length0": 7}
    assert all(torch.equal(value, kept[name]) for name, value in second.named_buffers())


def test_memory_is_kept_by_the_state_dict_and_does_not_share_the_patches() -> None:
    memory, support = PatchMemory(1), feature_maps((4, 3, 3))
    memory.fit(support)
    kept = memory.state_dict()["stage0"].clone()
    support[0].zero_()
    assert kept.shape == (36, 4)
    assert torch.equal(memory.state_dict()["stage0"], kept)
    assert kept.any()


def test_a_patch_without_features_stays_finite() -> None:
    memory = PatchMemory(1, raw=[0])
    memory.fit(feature_maps((4, 3, 3)))
    assert all(distance.isfinite().all() for distance in memory([torch.zeros(1, 4, 5, 5)]).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RuntimeError, match="memory is empty: fit it on the support first"):
        PatchMemory(1)(feature_maps((4, 2, 2)))
    with pytest.raises(ValueError, match="max_patches=0: a memory needs 1 or more"):
        PatchMemory(1, max_patches=0)
