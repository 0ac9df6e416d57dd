import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as L
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_zoo.callbacks import evaluation
from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.measures import IMAGE_METRICS, PIXEL_METRICS
from anomaly_zoo.methods.memory import PatchCore
from anomaly_zoo.metrics import DetectionMetrics
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.types import Batch
from tests.callbacks import two_processes
from tests.callbacks.brightness import Brightness


def trainer(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        default_root_dir=folder,
    )


def evaluate(root: Path, folder: Path, category: str = "alpha", test_batch_size: int = 4) -> EvaluationCallback:
    callback = EvaluationCallback()
    data = MVTecDataModule(root, category, image_size=256, shots=4, test_batch_size=test_batch_size)
    trainer(folder, callback).test(Brightness(), datamodule=data, verbose=False)
    return callback


def drive(callback: EvaluationCallback, batches: list[Batch], loggers: tuple[Any, ...] = ()) -> None:
    """Calls the hooks as a trainer does."""
    fake = Mock(spec=L.Trainer, datamodule=Mock(defects=["large", "small"]), loggers=loggers, world_size=1)
    module = Brightness()
    callback.on_test_start(fake, module)
    for index, batch in enumerate(batches):
        callback.on_test_batch_start(fake, module, batch, index)
        callback.on_test_batch_end(fake, module, module(batch.image), batch, index)
    callback.on_test_end(fake, module)


@pytest.fixture
def batches(tiny_root: Path) -> list[Batch]:
    """The test split of alpha in batches of 4, 4 and 1."""
    data = MVTecDataModule(tiny_root, "alpha", image_size=256, shots=4, test_batch_size=4)
    return [Batch(*batch) for batch in data.test_dataloader()]


def test_metrics_are_those_of_all_predictions_at_once(tiny_root: Path, tmp_path: Path, batches: list[Batch]) -> None:
    callback = evaluate(tiny_root, tmp_path)
    by_hand = DetectionMetrics(["large", "small"])
    image, mask, label = (torch.cat([getattr(b, name) for b in batches]) for name in ("image", "mask", "label"))
    defect = [Path(path).parent.name for batch in batches for path in batch.path]
    anomaly_map, image_score = Brightness()(image)
    by_hand.update(anomaly_map, image_score, mask, label, defect)
    assert (callback.metrics, callback.per_defect, callback.undefined) == tuple(by_hand.compute())
    assert set(callback.metrics) == {*IMAGE_METRICS, *PIXEL_METRICS}
    assert set(callback.per_defect) == {"large", "small"}
    assert callback.undefined == {}


def test_image_scores_tell_the_same_as_the_metric(tiny_root: Path, tmp_path: Path) -> None:
    callback = evaluate(tiny_root, tmp_path)
    label, score = zip(*((image["label"], image["score"]) for image in callback.images), strict=True)
    assert min(score) > 60
    assert callback.metrics["image_auroc"] == pytest.approx(roc_auc_score(label, score))
    assert 0.5 < callback.metrics["image_auroc"] < 1


def test_every_test_image_is_listed_by_path(tiny_root: Path, batches: list[Batch]) -> None:
    callback = EvaluationCallback()
    drive(callback, batches[::-1])
    files = sorted((tiny_root / "alpha" / "test").glob("*/*.png"), key=str)
    assert [image["path"] for image in callback.images] == [str(file) for file in files]
    defects = [file.parent.name for file in files]
    assert [image["defect"] for image in callback.images] == ["" if name == "good" else name for name in defects]
    assert [image["label"] for image in callback.images] == [name != "good" for name in defects]
    scores = {
        path: score for b in batches for path, score in zip(b.path, Brightness()(b.image)[1].tolist(), strict=True)
    }
    assert [image["score"] for image in callback.images] == [scores[str(file)] for file in files]
    assert json.loads(json.dumps(callback.images)) == callback.images


def test_batches_do_not_matter(tiny_root: Path, tmp_path: Path) -> None:
    one, nine = (evaluate(tiny_root, tmp_path, test_batch_size=size) for size in (1, 9))
    assert one.metrics == nine.metrics
    assert one.images == nine.images


def test_without_masks_pixel_metrics_are_undefined(tiny_root: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(tiny_root / "alpha" / part, tmp_path / "alpha" / part)
    callback = evaluate(tmp_path, tmp_path)
    assert set(callback.metrics) == set(IMAGE_METRICS)
    assert [set(values) for values in callback.per_defect.values()] == [set(IMAGE_METRICS)] * 2
    assert callback.undefined == dict.fromkeys(PIXEL_METRICS, "no ground-truth masks")


@pytest.mark.parametrize(("left", "reason"), [("good", "no anomalous image"), ("small", "no normal image")])
def test_a_split_of_one_kind_says_what_it_lacks(tiny_root: Path, tmp_path: Path, left: str, reason: str) -> None:
    shutil.copytree(tiny_root / "alpha" / "train", tmp_path / "alpha" / "train")
    shutil.copytree(tiny_root / "alpha" / "test" / left, tmp_path / "alpha" / "test" / left)
    callback = evaluate(tmp_path, tmp_path)
    assert callback.metrics == {}
    assert {callback.undefined[name] for name in IMAGE_METRICS} == {reason}
    assert set(callback.undefined) == {*IMAGE_METRICS, *PIXEL_METRICS}
    assert len(callback.images) == 3


def test_a_second_test_starts_afresh(tiny_root: Path, tmp_path: Path) -> None:
    callback = EvaluationCallback()
    runner = trainer(tmp_path, callback)
    for category in ("beta", "alpha"):
        runner.test(
            Brightness(), datamodule=MVTecDataModule(tiny_root, category, image_size=256, shots=4), verbose=False
        )
    assert len(callback.images) == 9
    assert callback.metrics == evaluate(tiny_root, tmp_path, "alpha").metrics
    assert callback.metrics != evaluate(tiny_root, tmp_path, "beta").metrics


def test_every_logger_gets_the_metrics_once(batches: list[Batch]) -> None:
    callback, loggers = EvaluationCallback(), (Mock(), Mock())
    drive(callback, batches, loggers)
    for logger in loggers:
        logger.log_metrics.assert_called_once_with({f"test/{name}": value for name, value in callback.metrics.items()})


@pytest.mark.parametrize(("count", "expected"), [(3, 2.0), (1, 2500.0)])
def test_time_is_the_median_of_the_warm_batches(
    batches: list[Batch], monkeypatch: pytest.MonkeyPatch, count: int, expected: float
) -> None:
    clock = iter([0.0, 10.0, 20.0, 20.004, 30.0, 30.003])  # the batches hold 4, 4 and 1 images
    monkeypatch.setattr(evaluation, "_now", lambda: next(clock))
    callback = EvaluationCallback()
    drive(callback, batches[:count])
    assert callback.ms_per_image == pytest.approx(expected)


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_equal_one(tiny_root: Path, tmp_path: Path) -> None:
    callback, checkpoint = EvaluationCallback(), tmp_path / "adapted.ckpt"
    runner, module = trainer(tmp_path, callback), PatchCore(Backbone("test_resnet", weights="none"))
    data = MVTecDataModule(tiny_root, "alpha", image_size=64, shots=4, test_batch_size=1)
    runner.fit(module, datamodule=data)
    runner.save_checkpoint(checkpoint, weights_only=True)
    runner.test(module, datamodule=data, verbose=False)
    assert len(callback.images) % 2 == 1  # so that the processes get unequal shares

    command = [sys.executable, two_processes.__file__, str(tiny_root), str(checkpoint), str(tmp_path)]
    with subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=240)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # also the process that it started
            raise
    assert process.returncode == 0, output
    for rank in range(2):
        held = json.loads((tmp_path / f"{rank}.json").read_text())
        assert held["world_size"] == 2
        assert held["metrics"] == pytest.approx(callback.metrics, rel=1e-12)  # sums over pixels in another order
        assert held["per_defect"].keys() == callback.per_defect.keys()
        for defect, metrics in callback.per_defect.items():
            assert held["per_defect"][defect] == pytest.approx(metrics, rel=1e-12)
        assert held["undefined"] == {}
        assert held["images"] == callback.images
        assert bool(held["pictures"]) == (rank == 0)
    assert sorted(file.name.split("_")[0] for file in (tmp_path / "pictures").iterdir()) == ["good", "large", "small"]
