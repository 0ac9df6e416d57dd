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
from jaxtyping import Bool, Float
from lightning.pytorch.loggers import WandbLogger

from anomaly_zoo.measures import COSTS, SCORES
from anomaly_zoo.results import Result

PROJECT = "anomaly_zoo"
_STEP = "trainer/global_step"
_PATH_KEYS = ("dataset", "category", "method", "shots", "seed")


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
            _say(f"{_brief(error)}; the run goes on without tracking.")


def tracker(folder: Path, identity: dict[str, Any]) -> Tracker | None:
    """A started W&B run with all its files in the run's folder.

    Offline, unless the environment names another `WANDB_MODE` or holds a `WANDB_API_KEY`.

    Args:
        folder: of the run.
        identity: what is known of the run before it starts; becomes its configuration.

    Returns:
        None if the environment says `WANDB=0`, or if W&B does not start.
    """
    if os.environ.get("WANDB") == "0":
        return None
    mode = os.environ.get("WANDB_MODE", "online" if "WANDB_API_KEY" in os.environ else "offline")
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            return _start(folder, identity, attempt)
        except Exception as error:  # noqa: PERF203
            _say(f"{_brief(error)}; the run goes on {'offline' if attempt != 'offline' else 'without tracking'}.")
    return None


def track_result(logger: Any, result: Result, pictures: Sequence[Path]) -> None:
    """Adds what is known at the end: scores, costs, pictures with their scores, curves, the result as an artifact.

    Args:
        logger: of the trainer; nothing happens unless it is a `Tracker`.
        result: of the run.
        pictures: files of `VisualizationCallback`, named `<defect>_<name>.png`.
    """
    if isinstance(logger, Tracker):
        logger.attempt(lambda: _track_numbers(logger.experiment, result))
        logger.attempt(lambda: _track_pictures(logger.experiment, result, pictures))
        logger.attempt(lambda: _track_curves(logger.experiment, result))
        logger.attempt(lambda: _track_artifact(logger.experiment, result))


def finish(logger: Any, exit_code: int) -> None:
    """Ends the W&B run, if there is one."""
    if isinstance(logger, Tracker):
        logger.attempt(lambda: logger.experiment.finish(exit_code=exit_code))


def curves(
    label: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The exact ROC and precision-recall curves, a point for every threshold that changes something.

    Args:
        label: True for anomalous; some of both kinds.
        score: higher is more anomalous.

    Returns:
        (false-positive rate, true-positive rate) from (0, 0) to (1, 1), and (recall, precision) for rising recall.

    >>> curves(np.array([False, True]), np.array([0.2, 0.9]))
    ([(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)], [(1.0, 1.0), (1.0, 0.5)])
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # tied scores share a threshold
    detected = np.cumsum(label[order])[last]
    alarms = last + 1 - detected
    recall, false = detected / label.sum(), alarms / (~label).sum()
    roc = [(0.0, 0.0), *zip(false.tolist(), recall.tolist(), strict=True)]
    return roc, list(zip(recall.tolist(), (detected / (last + 1)).tolist(), strict=True))


def _start(folder: Path, identity: dict[str, Any], mode: str) -> Tracker:
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ[variable] = str(folder.resolve())
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # before Lightning's first call, which W&B comments on

    # The identity says more of the machine and the code than W&B's own probes, which cost 0.3 s and disturb the clock
    lean = wandb.Settings(
        console="off", disable_git=True, disable_code=True, init_timeout=30,
        x_disable_meta=True, x_disable_stats=True, x_save_requirements=False,
    )  # fmt: skip
    dataset, category, method, shots, seed = (str(identity[key]) for key in _PATH_KEYS)
    tags = [dataset, category, method, f"shots={shots}", f"seed={seed}", str(identity["backbone"])]
    logger = Tracker(
        project=PROJECT,
        name="/".join((dataset, category, method, shots, seed)),
        group=f"{dataset}/{method}/shots={shots}",
        job_type=method,
        tags=[tag[:64] for tag in dict.fromkeys(tags)],  # W&B takes no longer ones
        save_dir=folder,
        config=identity,
        mode=mode,
        reinit="finish_previous",
        settings=lean,
    )
    run = logger.experiment  # starts it now, before the clock
    for prefix, names, better in (("test", SCORES, "max"), ("cost", COSTS, "min")):
        for name in names:
            run.define_metric(f"{prefix}/{name}", step_metric=_STEP, summary=better)
    return logger


def _track_numbers(run: Any, result: Result) -> None:
    costs = {**result.timing, **result.resources}
    run.log({f"cost/{name}": value for name, value in costs.items()})
    run.summary.update({f"final/{name}": value for name, value in {**result.metrics, **costs}.items()})


def _track_pictures(run: Any, result: Result, pictures: Sequence[Path]) -> None:
    """The pictures as a gallery, and as a table with the image scores."""
    import wandb

    images = {f"{Path(image['path']).parent.name}_{Path(image['path']).stem}": image for image in result.images}
    shown = [(file, images[file.stem]) for file in pictures if file.stem in images]
    if shown:
        table = wandb.Table(columns=["picture", "path", "defect", "anomalous", "image_score"])
        for file, image in shown:
            name = "/".join(Path(image["path"]).parts[-3:])
            table.add_data(wandb.Image(str(file)), name, image["defect"], image["label"], image["score"])
        gallery = [wandb.Image(str(file), caption=f"{file.stem}: {image['score']:.4g}") for file, image in shown]
        run.log({"test/pictures": gallery, "test/images": table})


def _track_curves(run: Any, result: Result) -> None:
    import wandb

    label = np.array([image["label"] for image in result.images], dtype=bool)
    score = np.array([image["score"] for image in result.images], dtype=float)
    if label.any() and not label.all():
        roc, precision_recall = curves(label, score)
        for key, points, (x, y) in (
            ("test/roc", roc, ("false_positive_rate", "true_positive_rate")),
            ("test/precision_recall", precision_recall, ("recall", "precision")),
        ):
            table = wandb.Table(columns=[x, y], data=[list(point) for point in points])
            run.log({key: wandb.plot.line(table, x, y, title=f"Image scores: {y} over {x}".replace("_", " "))})


def _track_artifact(run: Any, result: Result) -> None:
    import wandb

    parts = (str(getattr(result, key)) for key in _PATH_KEYS)
    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "_", "-".join(("result", *parts)))[:128], type="result")
    with artifact.new_file("result.json", encoding="utf-8") as file:
        json.dump(asdict(result), file, indent=2)
    run.log_artifact(artifact)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _say(text: str) -> None:
    sys.stderr.write(f"W&B: {text}\n")
