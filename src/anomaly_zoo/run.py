"""One run as a straight line: seed, build, fit, test, Result."""

import gc
import platform
import resource
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning.pytorch as L
import torch

from anomaly_zoo import __version__
from anomaly_zoo.callbacks.visualization import VisualizationCallback
from anomaly_zoo.config import build, quiet
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.support import support_sha256
from anomaly_zoo.freed_memory import keep_freed_memory, return_freed_memory
from anomaly_zoo.results import Result, Support, result_path
from anomaly_zoo.tracking import finish, track_result, tracker

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "faiss-cpu", "albumentations", "numpy")


@quiet()
def run(config: dict[str, Any], method: str, store: Path, callbacks: list[L.Callback] | None = None) -> Result:
    """Adapts a method to the support of one category, scores its test split, and returns what was measured.

    Args:
        config: the resolved configuration, see `config.resolve`.
        method: the method's name in the results.
        store: the results store; pictures and W&B's files go into the run's folder beside its result.
        callbacks: more Lightning callbacks, for progress.
    """
    identity = describe(config, method)
    folder = result_path(store, **{key: identity[key] for key in _PATH_KEYS}).with_suffix("")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    keep_freed_memory()
    gc.collect()  # Lightning's objects refer to each other, so that those of the last run are still there
    return_freed_memory()
    _reset_peak_memory()

    cli = build(config)
    model, data, trainer, evaluation = cli.model, cli.datamodule, cli.trainer, cli.evaluation
    pictures = VisualizationCallback(folder / "pictures")
    trainer.callbacks += [pictures, *(callbacks or [])]  # type: ignore[attr-defined]
    trainer.logger = tracker(folder, identity)

    try:
        start = perf_counter()
        trainer.fit(model, datamodule=data)
        adapted = perf_counter()
        trainer.test(model, datamodule=data, verbose=False)
        tested = perf_counter()
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        paths = [path.relative_to(data.root).as_posix() for path in data.support_files]
        result = Result(
            **identity,
            started=started,
            metrics=evaluation.metrics,
            per_defect=evaluation.per_defect,
            undefined=evaluation.undefined,
            images=evaluation.images,
            support=Support(paths=paths, sha256=support_sha256(data.support_files, data.root)),
            timing={"adapt_s": adapted - start, "test_s": tested - adapted, "ms_per_image": evaluation.ms_per_image},
            resources={"peak_rss_mib": _peak_memory_mib(), "trainable_params": trainable},
            training=model.training_record(),
            device=_device(trainer),
        )
        track_result(trainer.logger, result, pictures.files)
    finally:  # W&B would go on with the run of a failed cell in the next one
        finish(trainer.logger, exit_code=int(trainer.interrupted))
    return result


_PATH_KEYS = ("dataset", "category", "method", "shots", "seed")


def describe(config: dict[str, Any], method: str) -> dict[str, Any]:
    """The fields of a `Result` that are known before it is run, and are kept of a failed one."""
    data = config["data"]
    return {
        "dataset": MVTecDataModule(**data).dataset,
        "category": data["category"],
        "method": method,
        "shots": data["shots"],
        "seed": config["seed_everything"],
        "backbone": config["backbone"]["name"],
        "config": config,
        "versions": {"anomaly_zoo": __version__, "python": platform.python_version()}
        | {package: metadata.version(package) for package in _PACKAGES},
        "git": _git(),
    }


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _git() -> dict[str, str | bool] | None:
    git = ["git", "-C", str(Path(__file__).parent)]
    questions = (
        [
            "ls-files",
            "--error-unmatch",
            Path(__file__).name,
        ],  # fails if the package only lies inside somebody's repository
        ["rev-parse", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    )
    try:
        _, commit, changes = (
            subprocess.run([*git, *question], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
            for question in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _reset_peak_memory() -> None:
    """Lets the kernel forget the peak of earlier runs in this process; only Linux can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_memory_mib() -> float:
    """Peak resident memory; since `_reset_peak_memory` on Linux, else of the process's life."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
