"""Methods adapted to the tiny dataset, as models with a threshold."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.config import build, method_files, quiet, resolve
from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.adapting import make_model
from anomaly_zoo.deploy.inspecting import Inspection
from anomaly_zoo.deploy.model_folder import Model

METHODS = sorted(method_files())


@pytest.fixture(scope="session")
def model_of(tiny_root: Path) -> Callable[..., Model]:
    """Adapts a method, once per session: `model_of("coft", "--data.shots=1")`."""

    @cache
    def adapted(method: str, *options: str) -> Model:
        data = [f"--data.root={tiny_root}", "--data.category=alpha", "--data.shots=4", "--data.image_size=64"]
        trainer = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
        config = resolve(method, [*data, *trainer, *options])
        arguments = config["model"]["init_args"]
        arguments["steps"] = min(2, arguments["steps"])
        cli = build(config)
        with quiet():
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
            return make_model(cli.model, cli.datamodule)

    return adapted


@pytest.fixture(scope="session")
def model(model_of: Callable[..., Model]) -> Model:
    return model_of("patchcore")


@pytest.fixture(scope="session")
def test_images(tiny_root: Path) -> list[Path]:
    return sorted((tiny_root / "alpha" / "test").glob("*/*.png"))


@pytest.fixture(scope="session")
def images(test_images: list[Path]) -> list[np.ndarray]:
    return [read_image(path) for path in test_images]


def inspections(*outputs: np.ndarray) -> list[Inspection]:
    """What a graph says of a batch, in the order of `OUTPUTS`."""
    return [
        Inspection(float(score), float(p), float(conformal), bool(is_anomalous), anomaly_map)
        for score, anomaly_map, p, conformal, is_anomalous in zip(*outputs, strict=True)
    ]


def agree(found: list[Inspection], expected: list[Inspection], rel: float = 1e-4) -> None:
    """Scores up to rounding, maps relative to their largest value, and the same decisions."""
    for one, other in zip(found, expected, strict=True):
        assert one.image_score == pytest.approx(other.image_score, rel=rel)
        assert one.p_value == pytest.approx(other.p_value, rel=1e-2)
        assert one.conformal_p_value == pytest.approx(other.conformal_p_value, rel=1e-6)
        assert one.is_anomalous == other.is_anomalous
        assert np.abs(one.anomaly_map - other.anomaly_map).max() <= rel * np.abs(other.anomaly_map).max()
