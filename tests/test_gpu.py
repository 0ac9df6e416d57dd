"""Every method on a GPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from tests.test_contract import METHODS, Adapted, tiny_config


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shots", [1, 4])
def test_a_gpu_gives_about_the_scores_of_the_cpu(method: str, shots: int, tiny_root: Path) -> None:
    config = tiny_config(method, tiny_root)
    config["data"]["shots"] = shots
    on_cpu = Adapted(config)
    config["trainer"]["accelerator"] = "gpu"
    on_gpu = Adapted(config)
    on_gpu.cli.trainer.test(on_gpu.module, datamodule=on_gpu.cli.datamodule, verbose=False)
    assert on_gpu.cli.evaluation.metrics["image_auroc"] > 0.8
    on_gpu.module.cuda()
    for expected, found in zip(on_cpu.scores(on_cpu.images), on_gpu.scores(on_cpu.images.cuda()), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=0.1, atol=0.1)
