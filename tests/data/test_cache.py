import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from anomaly_zoo.data.cache import ImageCache
from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.samples import Sample, collate
from tests.data.test_mvtec import assert_equal, batches, forks

RNG = np.random.default_rng(0)


def entry(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask, region = (RNG.random((size, size)) < 0.3 for _ in range(2))
    return RNG.integers(0, 256, (size, size, 3), dtype=np.uint8), mask, region


@pytest.mark.parametrize("size", [1, 7, 32])
def test_what_was_put_comes_back(size: int) -> None:
    cache = ImageCache(3, size, 1)
    entries = {index: entry(size) for index in (0, 2)}
    for index, parts in entries.items():
        assert cache.get(index) is None
        cache.put(index, *parts)
    assert cache.num_kept == 2
    assert cache.get(1) is None
    for index, parts in entries.items():
        kept = cache.get(index)
        assert kept is not None
        for one, two in zip(kept, parts, strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_the_budget_holds() -> None:
    size, budget_mib = 256, 1
    cache = ImageCache(100, size, budget_mib)
    assert cache._rows is not None
    assert cache._rows.nbytes <= budget_mib * 2**20 < cache._rows.nbytes + 4 * size**2
    assert cache.capacity == 4
    for index in (3, 4):
        cache.put(index, *entry(size))
    assert cache.get(3) is not None
    assert cache.get(4) is None
    nothing = ImageCache(100, size, 0)
    nothing.put(0, *entry(size))
    assert nothing.get(0) is None
    assert nothing.num_kept == 0


def test_a_copy_for_a_spawned_worker_keeps_nothing() -> None:
    cache = ImageCache(3, 8, 1)
    cache.put(0, *entry(8))
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert other.get(0) is None
        other.put(1, *entry(8))
    assert cache.num_kept == 1


def test_the_second_pass_reads_no_file_and_yields_the_same(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=1, image_size=32)
    first = batches(data.test_dataloader())
    monkeypatch.setattr(MVTecDataset, "_read", None)
    for one, two in zip(first, batches(data.predict_dataloader()), strict=True):
        assert_equal(one, two)
    without = MVTecDataModule(tiny_root, "alpha", shots=1, image_size=32, cache_mib=0)
    with pytest.raises(TypeError):
        batches(without.test_dataloader())


@forks
@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_workers_fill_the_cache_of_all(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = MVTecDataset(tiny_root, "alpha", 32, cache_mib=1)
    loader: DataLoader[Sample] = DataLoader(
        dataset, 2, num_workers=2, collate_fn=collate, multiprocessing_context="fork"
    )
    first = list(loader)
    assert dataset.cache.num_kept == len(dataset)
    monkeypatch.setattr(MVTecDataset, "_read", None)
    for number, batch in enumerate(first):
        again = collate([dataset[i] for i in range(2 * number, min(2 * number + 2, len(dataset)))])
        assert torch.equal(batch.image, again.image)
        assert torch.equal(batch.mask, again.mask)


def test_workers_only_where_they_help(tiny_root: Path) -> None:
    data = MVTecDataModule(tiny_root, "alpha", shots=1, image_size=32, num_workers=2)
    assert data.test_dataloader().num_workers == 2
    dataset = data._test_images()
    for index in range(len(dataset)):
        dataset[index]
    assert data.test_dataloader().num_workers == 0
    assert data.train_dataloader().num_workers == 2
