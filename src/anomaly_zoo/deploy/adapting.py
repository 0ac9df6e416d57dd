"""From an adapted module, or from a folder of normal images, to a model that decides."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as L

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.regions import Regions
from anomaly_zoo.data.support import support_sha256
from anomaly_zoo.deploy.calibration import calibrate
from anomaly_zoo.deploy.model_folder import Model, copy_of
from anomaly_zoo.module import AnomalyModule

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


def require_deployable(data: MVTecDataModule) -> None:
    """Refuses what a model folder cannot hold, before any time is spent.

    Raises:
        ValueError: the category has a region of interest.
    """
    if Regions(data.root / data.category).exist:
        raise ValueError(
            f"{data.root / data.category} has a region of interest, which a model folder cannot hold: crop the images "
            "to the product, or fit without --output."
        )


def make_model(
    module: AnomalyModule,
    data: MVTecDataModule,
    false_alarm_rate: float = 0.05,
) -> Model:
    """Adds a threshold to a module, from the scores that its held-out support images had.

    Args:
        module: after `fit`.
        data: that it was fitted on.
        false_alarm_rate: the share of normal images that may count as anomalous, in (0, 1).

    Raises:
        ValueError: the module is not fitted; see also `require_deployable` and `calibrate`.
    """
    require_deployable(data)
    if not module.is_fitted:
        raise ValueError(f"This {type(module).__name__} is not fitted, so it has no held-out scores: fit it first.")
    data.setup("fit")
    scores, peaks = module.held_out_scores.tolist(), module.held_out_peaks.tolist()
    return Model(
        module=copy_of(module),
        calibration=calibrate(scores, peaks, float(module.held_out_level), false_alarm_rate),
        image_size=data.image_size,
        tiling=data.tiling,
        category=data.category,
        support=tuple(path.relative_to(data.root).as_posix() for path in data.support_files),
        support_sha256=support_sha256(data.support_files, data.root),
    )


@quiet()
def adapt(
    method: str,
    root: Path,
    category: str,
    options: list[str],
    false_alarm_rate: float = 0.05,
    progress: Progress | None = None,
) -> Model:
    """Adapts a method to all normal images in `<root>/<category>/train/good`.

    Args:
        method: a name in configs/methods, or a YAML file.
        root: a folder in the MVTec layout; it needs no test images.
        category: the folder in it.
        options: of the configuration, such as `--backbone.name=resnet18`.
        false_alarm_rate: see `make_model`.
        progress: see `Progress`.

    Raises:
        ValueError: an unknown option, or images that cannot be read.
    """
    shots = len(image_files(root / category / "train" / "good"))
    data = [f"--data.root={root}", f"--data.category={category}", f"--data.shots={max(shots, 1)}"]
    cli = build(resolve(method, [*data, "--trainer.enable_progress_bar=false", *options]))
    if progress is not None:
        cli.trainer.callbacks.append(_Steps(cli.model.steps, progress))  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return make_model(cli.model, cli.datamodule, false_alarm_rate)


class _Steps(L.Callback):
    """Reports every step of the training, and that the support is scored after it."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self.steps = steps
        self.progress = progress

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.progress("adapting", trainer.global_step, self.steps)

    def on_train_end(self, *_: object) -> None:
        self.progress("calibrating", 0, 0)
