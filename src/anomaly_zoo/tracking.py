"""Tracking with Weights & Biases. Whatever goes wrong here is said once, and the run goes on without it.

Offline unless the environment says otherwise; `make sync` uploads later. A run is in the group `<dataset>/<method>/
shots=8` and has its parts as tags. Its summary holds every score and cost as `final/<name>`, and the history keys
`test/<name>` and `cost/<name>` are defined with the direction that is better.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger

from anomaly_zoo.compare.statistics import curves
from anomaly_zoo.measures import COSTS, SCORES
from anomaly_zoo.results import ImageScore, Result

PROJECT = "anomaly_zoo"
_RUN = ("dataset", "category", "method", "shots", "seed")
_FOLDERS = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")


class Tracker(WandbLogger):
    """Lightning's logger for W&B, except that it never raises: after the first failure it does nothing any more."""

    broken = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics."""
        self.attempt(lambda: super(Tracker, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        """Logs hyperparameters."""
        self.attempt(lambda: super(Tracker, self).log_hyperparams(params))

    def finalize(self, status: str) -> None:
        """Ends a stage of the trainer."""
        self.attempt(lambda: super(Tracker, self).finalize(status))

    def attempt(self, act: Callable[[], object]) -> None:
        """Does something with W&B, unless that has failed before."""
        if self.broken:
            return
        try:
            act()
        except Exception as error:  # it has many, some of them not its own
            self.broken = True
            _warn(error, "without tracking")


def tracker(folder: Path, known: Result) -> Tracker | None:
    """A started W&B run with its files in `folder`; None if the environment says `WANDB=0`, or if it does not start.

    Offline, unless the environment names another `WANDB_MODE` or holds a `WANDB_API_KEY`.
    """
    if os.environ.get("WANDB") == "0":
        return None
    wanted = os.environ.get("WANDB_MODE", "online" if "WANDB_API_KEY" in os.environ else "offline")
    for mode in dict.fromkeys((wanted, "offline")):
        try:
            return _start(folder, known, mode)
        except Exception as error:  # noqa: PERF203
            _warn(error, "offline" if mode != "offline" else "without tracking")
    return None


def track_result(logger: Any, result: Result, pictures: Sequence[Path]) -> None:
    """Adds what is known at the end: scores, costs, the pictures of `VisualizationCallback`, curves, the result."""
    if isinstance(logger, Tracker):
        logger.attempt(lambda: _track(logger.experiment, result, pictures))


def finish(logger: Any, exit_code: int) -> None:
    """Ends the W&B run, if there is one."""
    if isinstance(logger, Tracker):
        logger.attempt(lambda: logger.experiment.finish(exit_code=exit_code))


def _start(folder: Path, known: Result, mode: str) -> Tracker:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(dict.fromkeys(_FOLDERS, str(folder.resolve())))
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # before Lightning's first call, which W&B comments on

    # A result says more of the machine and the code than W&B's own probes, which cost 0.3 s and disturb the clock
    lean = wandb.Settings(
        console="off", disable_git=True, disable_code=True, init_timeout=30,
        x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
    )  # fmt: skip
    dataset, category, method, shots, seed = (str(getattr(known, key)) for key in _RUN)
    tags = [dataset, category, method, f"shots={shots}", f"seed={seed}", known.backbone]
    logger = Tracker(
        project=PROJECT,
        name="/".join((dataset, category, method, shots, seed)),
        group=f"{dataset}/{method}/shots={shots}",
        job_type=method,
        tags=[tag[:64] for tag in dict.fromkeys(tags)],  # W&B takes no longer ones
        save_dir=folder,
        config={key: getattr(known, key) for key in (*_RUN, "backbone", "config", "versions", "git")},
        mode=mode,
        reinit="finish_previous",
        settings=lean,
    )
    run = logger.experiment  # starts it now, before the clock
    for prefix, names, better in (("test", SCORES, "max"), ("cost", COSTS, "min")):
        for name in names:
            run.define_metric(f"{prefix}/{name}", step_metric="trainer/global_step", summary=better)
    return logger


def _track(run: Any, result: Result, pictures: Sequence[Path]) -> None:
    import wandb

    costs = {**result.timing, **result.resources}
    run.summary.update({f"final/{name}": value for name, value in {**result.metrics, **costs}.items()})
    images = {f"{Path(image['path']).parent.name}_{Path(image['path']).stem}": image for image in result.images}
    shown = {file: images[file.stem] for file in pictures if file.stem in images}
    run.log({f"cost/{name}": value for name, value in costs.items()} | _gallery(shown) | _curves(result))
    name = "-".join(("result", *(str(getattr(result, key)) for key in _RUN)))
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", name)[:128], type="result")
    with artifact.new_file("result.json", encoding="utf-8") as file:
        json.dump(asdict(result), file, indent=2)
    run.log_artifact(artifact)


def _gallery(shown: dict[Path, ImageScore]) -> dict[str, Any]:
    """The pictures, and a table of them with the image scores."""
    import wandb

    if not shown:
        return {}
    table = wandb.Table(columns=["picture", "path", "defect", "anomalous", "image_score"])
    for file, image in shown.items():
        name = "/".join(Path(image["path"]).parts[-3:])
        table.add_data(wandb.Image(str(file)), name, image["defect"], image["label"], image["score"])
    gallery = [wandb.Image(str(file), caption=f"{file.stem}: {image['score']:.4g}") for file, image in shown.items()]
    return {"test/pictures": gallery, "test/images": table}


def _curves(result: Result) -> dict[str, Any]:
    import wandb

    label = np.array([image["label"] for image in result.images], dtype=bool)
    score = np.array([image["score"] for image in result.images], dtype=float)
    if label.all() or not label.any():
        return {}
    axes = {"roc": ("false_positive_rate", "true_positive_rate"), "precision_recall": ("recall", "precision")}
    plots = {}
    false, recall, precision = curves(score, label).tolist()
    for (name, (x, y)), xs, ys in zip(axes.items(), ([0.0, *false], recall), ([0.0, *recall], precision), strict=True):
        table = wandb.Table(columns=[x, y], data=[list(point) for point in zip(xs, ys, strict=True)])
        plots[f"test/{name}"] = wandb.plot.line(table, x, y, title=f"Image scores: {y} over {x}".replace("_", " "))
    return plots


def _warn(error: Exception, how: str) -> None:
    brief = f"{type(error).__name__}: {error}".splitlines()[0]
    sys.stderr.write(f"W&B: {brief}; the run goes on {how}.\n")
