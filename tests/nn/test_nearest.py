from unittest.mock import Mock

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.nearest import nearest_distance, nearest_rows
from tests.nn.patches import devices, patches


def slow_nearest_distance(queries: Tensor, memory: Tensor, num_neighbours: int = 3) -> list[float]:
    rows = memory.double().numpy()
    distances = [sorted(np.linalg.norm(query - row) for row in rows) for query in queries.double().numpy()]
    return [float(np.mean(nearest[:num_neighbours])) for nearest in distances]


@devices
@pytest.mark.parametrize(
    ("num_queries", "num_rows", "length"), [(1, 1, 1), (7, 30, 5), (60, 40, 100), (25, 3, 2), (48, 70, 6)]
)
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_distance_equals_a_loop_over_all_pairs(
    device: str, num_queries: int, num_rows: int, length: int, offset: float, num_neighbours: int
) -> None:
    queries, memory = patches(num_queries, length, 1, offset), patches(num_rows, length, 2, offset)
    distance = nearest_distance(queries.to(device), memory.to(device), num_neighbours)
    assert (distance.dtype, distance.device.type) == (torch.float32, device)
    np.testing.assert_allclose(distance.cpu(), slow_nearest_distance(queries, memory, num_neighbours), rtol=1e-5)


@devices
def test_distance_equals_cdist_beyond_one_chunk(device: str) -> None:
    queries, memory = patches(5000, 24, 1), patches(700, 24, 2)
    expected = torch.cdist(queries.double(), memory.double()).topk(3, largest=False).values.mean(dim=1).float()
    torch.testing.assert_close(
        nearest_distance(queries.to(device), memory.to(device)).cpu(), expected, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("num_rows", [2, 700, 20000])
def test_on_a_cpu_faiss_searches(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Mock(wraps=faiss.knn)
    monkeypatch.setattr("anomaly_zoo.nn.nearest.faiss.knn", spy)
    queries, memory = patches(300, 24, 1, offset=1.0), patches(num_rows, 24, 2, offset=1.0)
    rows = nearest_rows(queries, memory, num_neighbours=4)
    spy.assert_called_once()
    count = min(4, num_rows)
    expected = torch.cdist(queries.double(), memory.double()).topk(count, largest=False).indices
    assert torch.equal(rows.sort().values, expected.sort().values)


@devices
def test_a_remembered_patch_has_distance_zero(device: str) -> None:
    memory = patches(2000, 96, offset=10.0).to(device)
    assert not nearest_distance(memory, memory, num_neighbours=1).any()


@devices
def test_distance_does_not_depend_on_the_other_patches(device: str) -> None:
    queries, memory = patches(600, 64, 1).to(device), patches(2000, 64, 2).to(device)
    alone = torch.cat([nearest_distance(chunk, memory) for chunk in queries.chunk(len(queries))])
    torch.testing.assert_close(nearest_distance(queries, memory), alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_precision_is_taken(dtype: torch.dtype) -> None:
    queries, memory = patches(30, 8, 1).to(dtype), patches(50, 8, 2).to(dtype)
    np.testing.assert_allclose(nearest_distance(queries, memory), slow_nearest_distance(queries, memory), rtol=1e-5)


def test_no_patches_no_distances() -> None:
    assert nearest_distance(torch.empty(0, 4), patches(3, 4)).shape == (0,)
