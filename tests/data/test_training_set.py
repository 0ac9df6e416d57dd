import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from anomaly_zoo.data.support import derive_seed
from anomaly_zoo.data.training_set import TrainingSet, training_order

IMAGES = [np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8) for index in range(5)]
PATHS = [f"{index}.png" for index in range(5)]


@pytest.mark.parametrize(
    ("shots", "batch_size"), [(1, 1), (1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (7, 3), (8, 5), (16, 4)]
)
def test_every_block_holds_every_image_once_and_batches_are_distinct(shots: int, batch_size: int) -> None:
    order = training_order(shots, batch_size, 60, seed=0)
    assert len(order) == 60 * batch_size
    for start in range(0, len(order) - shots, shots):
        assert sorted(order[start : start + shots]) == list(range(shots))
    if batch_size <= shots:
        for start in range(0, len(order), batch_size):
            assert len(set(order[start : start + batch_size])) == batch_size


def test_the_order_is_random_and_seeded() -> None:
    assert training_order(8, 4, 20, seed=0) == training_order(8, 4, 20, seed=0)
    assert training_order(8, 4, 20, seed=0) != training_order(8, 4, 20, seed=1)
    blocks = np.array(training_order(8, 4, 20, seed=0)).reshape(-1, 8)
    assert len({tuple(block) for block in blocks}) == len(blocks)
    assert training_order(8, 4, 20, seed=0) == training_order(8, 4, 40, seed=0)[:80]


def test_derived_seeds_differ() -> None:
    keys = [(a, b, c) for a in range(6) for b in range(6) for c in range(6)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_draws_depend_on_number_and_seed_alone() -> None:
    draws = TrainingSet(IMAGES, PATHS, views=3, batch_size=2, batches=10, seed=0)
    assert len(draws) == 20
    forwards = [draws[index] for index in range(20)]
    for index in (19, 3, 7, 0):
        again = draws[index]
        np.testing.assert_array_equal(again.views, forwards[index].views)
        assert again.path == forwards[index].path == PATHS[draws.order[index]]
    assert len({view.tobytes() for item in forwards for view in item.views}) == 60
    other = TrainingSet(IMAGES, PATHS, views=3, batch_size=2, batches=10, seed=1)
    assert not np.array_equal(other[0].views[0], forwards[0].views[0])
    assert not any(item.label or item.mask.any() for item in forwards)
    with pytest.raises(IndexError):
        draws[20]


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_share_the_draws_and_keep_distinct_batches(num_processes: int) -> None:
    draws = TrainingSet(IMAGES, PATHS, 2, batch_size=4, batches=6, seed=0, num_processes=num_processes)
    dealt: list[list[int]] = [
        list(DistributedSampler(draws, num_replicas=num_processes, rank=rank, shuffle=False))
        for rank in range(num_processes)
    ]
    assert sorted(torch.tensor(dealt).flatten().tolist()) == list(range(len(draws)))
    for numbers in dealt:
        assert len(numbers) == 24
        for start in range(0, 24, 4):
            assert len({draws.order[number] for number in numbers[start : start + 4]}) == 4
