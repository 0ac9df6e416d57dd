import json
import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from anomaly_zoo.metrics import AUPRO, DetectionMetrics, detection_metrics
from tests.metrics.test_detection import random_images

# Which images, in which batches, each of the two processes gets.
SPLITS: dict[str, list[list[list[int]]]] = {
    "even": [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]],
    "uneven": [[[0, 1, 2, 3], [4, 5, 6], [7, 8]], [[9, 10, 11]]],
    "one class each": [[[0, 3, 6, 9]], [[1, 2, 4], [5, 7, 8, 10, 11]]],
}


def score_share(rank: int, folder: Path) -> None:
    """Update metrics with this process's batches, then write what they are over both processes."""
    torch.set_num_threads(1)
    rendezvous = (folder / "rendezvous").as_uri()
    dist.init_process_group("gloo", rendezvous, timedelta(seconds=60), rank=rank, world_size=2)
    images = random_images()
    scores = {}
    for split, shares in SPLITS.items():
        metrics, pixel_aupro = DetectionMetrics(defects=["hole", "scratch"]), AUPRO()
        for batch in [images.at(chosen) for chosen in shares[rank]]:
            metrics.update(*batch)
            pixel_aupro.update(batch.anomaly_map, batch.mask)
        scores[split] = [*metrics.compute(), pixel_aupro.compute().item()]
    (folder / f"{rank}.json").write_text(json.dumps(scores))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=score_share, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=180)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]

    images = random_images()
    expected = detection_metrics(*images)
    for rank in range(2):
        for scores in json.loads((tmp_path / f"{rank}.json").read_text()).values():
            metrics, per_defect, undefined, aupro_value = scores
            assert metrics == pytest.approx(expected.metrics, abs=1e-12)
            assert list(per_defect) == list(expected.per_defect)
            for name, values in per_defect.items():
                assert values == pytest.approx(expected.per_defect[name], abs=1e-12)
            assert undefined == {}
            assert aupro_value == pytest.approx(metrics["aupro"], abs=1e-12)
