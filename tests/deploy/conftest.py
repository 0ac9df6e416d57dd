"""Methods adapted to the tiny dataset, as models with a threshold."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from anomaly_zoo.config import build, method_files, quiet, resolve
from anomaly_zoo.deploy.adapting import make_model
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
