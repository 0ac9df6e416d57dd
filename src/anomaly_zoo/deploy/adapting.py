"""From an adapted module, or from a folder of normal images, to a model that decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.callbacks import LambdaCallback

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.regions import Regions
from anomaly_zoo.data.support import support_sha256
from anomaly_zoo.data.transforms import resize
from anomaly_zoo.deploy.calibration import calibrate, doubts
from anomaly_zoo.deploy.independence import same_part
from anomaly_zoo.deploy.model_folder import Model, class_path_of, copy_of
from anomaly_zoo.module import AnomalyModule

_COMPARED = (256, 256)
Report = Callable[[str, int, int], None]  # told what is being done, how much of it is done, and of how much


def require_deployable(module: AnomalyModule, data: MVTecDataModule) -> None:
    """Refuses what a model folder cannot hold, before any time is spent: other methods, a region of interest."""
    class_path_of(module)
    folder = data.root / data.category
    if Regions(folder).exist:
        hint = "crop the images to the product, or fit without --output."
        raise ValueError(f"{folder} has a region of interest, which a model folder cannot hold: {hint}")


def make_model(module: AnomalyModule, data: MVTecDataModule, false_alarm_rate: float = 0.05) -> Model:
    """Adds a threshold, from the held-out scores of the support, to a fitted module: none if all show a single part."""
    require_deployable(module, data)
    if not module.is_fitted:
        raise ValueError(f"This {type(module).__name__} is not fitted, so it has no held-out scores: fit it first.")
    data.setup("fit")
    scores, peaks = module.held_out_scores.tolist(), module.held_out_peaks.tolist()
    calibration = calibrate(scores, peaks, float(module.held_out_level), false_alarm_rate)
    files = sorted(data.support_files)
    first = same_part([resize(read_image(path), _COMPARED) for path in files])
    return Model(
        module=copy_of(module),
        calibration=calibration if len(set(first)) > 1 else replace(calibration, threshold=None),
        image_shape=data.image_shape,
        tiling=data.tiling,
        category=data.category,
        support=tuple(path.relative_to(data.root).as_posix() for path in data.support_files),
        support_sha256=support_sha256(data.support_files, data.root),
        warnings=doubts([path.name for path in files], first, scores),
    )


@quiet()
def adapt(method: str, root: Path, category: str, options: list[str], report: Report) -> Model:
    """Adapts a method to all normal images in `<root>/<category>/train/good`, with options of the configuration."""
    shots = len(image_files(root / category / "train" / "good"))
    data = [f"--data.root={root}", f"--data.category={category}", f"--data.shots={max(shots, 1)}"]
    cli = build(resolve(method, [*data, "--trainer.enable_progress_bar=false", *options]))
    reporting = LambdaCallback(
        on_train_batch_end=lambda trainer, *_: report("adapting", trainer.global_step, cli.model.steps),
        on_train_end=lambda *_: report("calibrating", 0, 0),
    )
    cli.trainer.callbacks.append(reporting)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return make_model(cli.model, cli.datamodule)
