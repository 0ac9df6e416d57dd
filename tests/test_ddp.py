"""One big run on several processes: `--trainer.strategy ddp` for adapting and for scoring."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import adapt_and_score

pytestmark = pytest.mark.slow


def held(method: str, root: Path, folder: Path, processes: int) -> list[dict[str, Any]]:
    """What every process ended with."""
    folder.mkdir()
    script = Path(adapt_and_score.__file__)
    done = subprocess.run(
        [sys.executable, script, method, root, folder, str(processes)],
        env=os.environ | {"WANDB": "0", "PYTHONPATH": os.pathsep.join([str(script.parents[1]), *sys.path])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def test_two_processes_give_the_metrics_of_one(tiny_root: Path, tmp_path: Path) -> None:
    (alone,) = held("patchcore", tiny_root, tmp_path / "one", 1)
    both = held("patchcore", tiny_root, tmp_path / "two", 2)
    assert alone["world_size"] == 1
    assert both == [alone | {"world_size": 2}] * 2


def test_processes_that_train_end_with_the_same_weights(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 3, learning_rate: 0.01}}")
    first, second = held(str(tmp_path / "toy.yaml"), tiny_root, tmp_path / "two", 2)
    assert first == second
    assert first["world_size"] == 2
    (alone,) = held(str(tmp_path / "toy.yaml"), tiny_root, tmp_path / "one", 1)
    assert alone["weights"] != first["weights"]  # each process draws its own batch, so a step sees twice the images
