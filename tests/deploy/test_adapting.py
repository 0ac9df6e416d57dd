import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.deploy.adapting import adapt, make_model
from anomaly_zoo.deploy.calibration import tail_quantile
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from anomaly_zoo.methods.memory import PatchCore
from anomaly_zoo.nn.backbone import Backbone
from tests.deploy.conftest import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_threshold_comes_from_the_held_out_support(method: str, model_of: Callable[..., Model]) -> None:
    model = model_of(method)
    calibration = model.calibration
    assert calibration.image_scores == sorted(model.module.held_out_scores.tolist())
    assert calibration.map_peaks == sorted(model.module.held_out_peaks.tolist())
    assert calibration.map_level == model.module.held_out_level.item()
    assert len(calibration.image_scores) == 4
    assert calibration.threshold == pytest.approx(tail_quantile(calibration.image_scores, 0.05))
    assert calibration.map_threshold == pytest.approx(tail_quantile(calibration.map_peaks, 0.05))


def test_a_single_image_gets_scores_and_no_decision(model_of: Callable[..., Model], images: list[np.ndarray]) -> None:
    model = model_of("patchcore", "--data.shots=1")
    assert len(model.calibration.image_scores) == 7
    (warning,) = model.warnings
    assert "1 independent image, so that there is a score and no decision, unless you pass --threshold" in warning
    inspector = TorchInspector(model)
    assert [(found.is_anomalous, found.numbers(None)["decision"]) for found in inspector.inspect(images[:1])] == [
        (None, "undecided")
    ]
    with pytest.raises(ValueError, match="one independent support image promises no false-alarm rate"):
        inspector.decide(None, 0.1)
    inspector.decide(0.0, None)
    assert (inspector.inspect(images[:1])[0].is_anomalous, inspector.warnings) == (True, ())


def test_few_images_or_copies_are_warned_of(model: Model, model_of: Callable[..., Model]) -> None:
    assert model.warnings == ()
    (warning,) = model_of("patchcore", "--data.shots=3").warnings
    assert warning == (
        "the support has 3 independent images, so that the threshold is a guess: "
        "adapt to 4 or more, better 8, of different parts."
    )


def test_a_module_that_is_not_fitted_is_refused(tiny_root: Path) -> None:
    module, data = PatchCore(Backbone()), MVTecDataModule(tiny_root, "alpha", shots=2, image_size=64)
    with pytest.raises(ValueError, match="This PatchCore is not fitted, so it has no held-out scores: fit it first"):
        make_model(module, data)


def test_a_single_held_out_score_is_refused(tiny_root: Path) -> None:
    module, data = PatchCore(Backbone()), MVTecDataModule(tiny_root, "alpha", shots=2, image_size=64)
    module.is_fitted.fill_(True)
    module.held_out_scores, module.held_out_peaks = torch.ones(1), torch.ones(1)
    module.held_out_level = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"held-out scores \[1.0\]: a threshold needs 2 or more"):
        make_model(module, data)


def test_a_region_of_interest_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_root / "beta", tmp_path / "beta")
    (tmp_path / "beta" / "region.json").write_text('{"polygons": [[[0, 0], [1, 0], [0.5, 1]]]}')
    data = MVTecDataModule(tmp_path, "beta", shots=2, image_size=64)
    with pytest.raises(ValueError, match="has a region of interest, which a model folder cannot hold"):
        make_model(PatchCore(Backbone()), data)


def test_adapting_takes_all_images_and_tells_how_far_it_is(tiny_root: Path) -> None:
    told: list[tuple[str, int, int]] = []
    options = ["--data.image_size=64", "--trainer.accelerator=cpu", "--model.init_args.steps=2"]
    model = adapt("pf", tiny_root, "beta", options, lambda *now: told.append(now))
    assert told == [("adapting", 1, 2), ("adapting", 2, 2), ("calibrating", 0, 0)]
    assert len(model.support) == len(model.calibration.image_scores) == 6
