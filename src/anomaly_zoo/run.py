"""One run as a straight line: seed, build, fit, test, and a result that is saved."""

import gc
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from anomaly_zoo import __version__
from anomaly_zoo.callbacks.visualization import VisualizationCallback
from anomaly_zoo.config import AnomalyCLI, build, quiet
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.support import support_sha256
from anomaly_zoo.freed_memory import keep_freed_memory
from anomaly_zoo.results import Result, Support, save
from anomaly_zoo.tracking import finish, track_result, tracker

_PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "faiss-cpu", "albumentations", "numpy")


@quiet()
def run(config: dict[str, Any], method: str, store: Path, cell: str = "") -> Result:
    """Adapts a method to the support of one category, scores its test split, and saves and returns what was measured.

    `config` is resolved (see `config.resolve`); `method` is its name in the results; `cell` is the hash of what decides
    the numbers, if the bench runs it. Pictures and W&B's files go into a folder beside the result.

    Raises:
        ValueError: scores that are not finite, and all that the configuration and the data can have wrong.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    known = replace(describe(config, method), cell=cell, started=started)
    folder = known.path_in(store).with_suffix("")
    gc.collect()  # Lightning's objects refer to each other, so that those of the last run are still there
    keep_freed_memory()
    with suppress(OSError):  # forgets the peak memory of earlier runs in this process; only Linux can
        Path("/proc/self/clear_refs").write_text("5")

    cli = build(config)
    pictures = VisualizationCallback(folder / "pictures")
    cli.trainer.callbacks.append(pictures)  # type: ignore[attr-defined]
    cli.trainer.logger = tracker(folder, known)
    try:
        begin = perf_counter()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        adapted = perf_counter()
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        tested = perf_counter()
        result = measured(known, cli, adapt_s=adapted - begin, test_s=tested - adapted)
        save(result, store)
        track_result(cli.trainer.logger, result, pictures.files)
    finally:  # W&B would go on with the run of a failed cell in the next one
        finish(cli.trainer.logger, exit_code=int(cli.trainer.interrupted))
    return result


def describe(config: dict[str, Any], method: str) -> Result:
    """What is known of a run before it starts, and is kept of a failed one."""
    data = config["data"]
    return Result(
        dataset=MVTecDataModule(**data).dataset,
        category=data["category"],
        method=method,
        shots=data["shots"],
        seed=config["seed_everything"],
        backbone=config["backbone"]["name"],
        config=config,
        versions={"anomaly_zoo": __version__, "python": platform.python_version()}
        | {package: metadata.version(package) for package in _PACKAGES},
        git=_git(),
    )


def measured(known: Result, cli: AnomalyCLI, **seconds: float) -> Result:
    """What is known of a run after `trainer.test`; `seconds` are those that it took."""
    data, evaluation, device = cli.datamodule, cli.evaluation, cli.trainer.strategy.root_device
    processor = f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
    paths = [path.relative_to(data.root).as_posix() for path in data.support_files]
    trainable = sum(parameter.numel() for parameter in cli.model.parameters() if parameter.requires_grad)
    return replace(
        known,
        metrics=evaluation.metrics,
        per_defect=evaluation.per_defect,
        undefined=evaluation.undefined,
        images=evaluation.images,
        support=Support(paths=paths, sha256=support_sha256(data.support_files, data.root)),
        timing=seconds | {"ms_per_image": evaluation.ms_per_image},
        resources=_peak_memory() | {"trainable_params": trainable},
        training=cli.model.training_record(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
    )


def _git() -> dict[str, str | bool] | None:
    """The commit of this code; None if the package only lies inside somebody's repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    is_ours = ["ls-files", "--error-unmatch", Path(__file__).name]
    commit = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        _, said = (
            subprocess.run([*git, *question], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
            for question in (is_ours, commit)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": said.removesuffix("-dirty"), "dirty": said.endswith("-dirty")}


def _peak_memory() -> dict[str, float]:
    """Peak resident memory: of this run on Linux, else of the process's life; Windows does not say."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return {"peak_rss_mib": int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**10}
    with suppress(ImportError):
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        return {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    return {}
