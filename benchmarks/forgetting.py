"""How gaussian forgets: test scores after every few steps, and the step that its support chose against the best one.

    .venv/bin/python benchmarks/forgetting.py --data parts/bracket parts/nut --steps 40 --check-every 10 \
        --learning-rate 1e-4 --store forgetting.jsonl --figure forgetting.svg
    .venv/bin/python benchmarks/forgetting.py --store forgetting.jsonl

Test images are looked at only here, to judge in hindsight; what the method chose comes from its support. The training
is not stopped, so that forgetting shows. Runs that the store holds already are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import matplotlib as mpl
import numpy as np
import torch

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.deploy.model_folder import copy_of
from anomaly_zoo.methods.gaussian import GaussianAD
from anomaly_zoo.metrics import DetectionMetrics

METRICS = ("image_auroc", "aupro")


def main() -> None:
    """Runs what is missing, then prints the tables and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="category folders in the MVTec layout")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--check-every", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--store", type=Path, required=True, help="JSON lines")
    parser.add_argument("--figure", type=Path, help="an image file to draw the mean curves to")
    options = parser.parse_args()
    for seed in options.seeds:
        for folder in options.data:
            names = {name: getattr(options, name) for name in ("shots", "steps", "check_every", "learning_rate")}
            key = {"category": folder.name, "seed": seed, **names}
            if not any(key.items() <= run.items() for run in read(options.store)):
                run = key | measure(folder, seed, **names)
                with options.store.open("a") as store:
                    store.write(json.dumps(run) + "\n")
                print(*key.values(), run["chosen"], [round(value, 3) for value in run["image_auroc"]], flush=True)
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in read(options.store):
        groups[run["learning_rate"], run["steps"], run["check_every"]].append(run)
    for runs in groups.values():
        print_tables(runs)
    if options.figure:
        draw(list(groups.values()), options.figure)


def read(store: Path) -> list[dict[str, Any]]:
    """The runs that a store holds."""
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


@quiet()
def measure(
    folder: Path, seed: int, shots: int, steps: int, check_every: int, learning_rate: float
) -> dict[str, list[float] | int]:
    """Trains without a stop; returns what the support saw and what the test split says at every check."""
    numbers = {"steps": steps, "check_every": check_every, "learning_rate": learning_rate, "patience": steps}
    data = [f"--data.root={folder.parent}", f"--data.category={folder.name}", f"--data.shots={shots}"]
    method = [f"--model.init_args.{name}={value}" for name, value in numbers.items()]
    cli = build(
        resolve("gaussian", [*data, *method, "--trainer.enable_progress_bar=false", f"--seed_everything={seed}"])
    )
    looks = _Looks(check_every)
    cli.trainer.callbacks.insert(0, looks)  # type: ignore[attr-defined]
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    assert isinstance(cli.model, GaussianAD)
    step, validation = cli.model.stop.curve.T.tolist()
    return {"step": step, "validation": validation, "chosen": int(cli.model.stop.best_step), **looks.metrics}


class _Looks(L.Callback):
    """Calibrates and tests a copy of the module at every check."""

    def __init__(self, check_every: int) -> None:
        self.check_every = check_every
        self.metrics: dict[str, list[float]] = {name: [] for name in METRICS}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, GaussianAD)
        if trainer.global_step % self.check_every == 0 and trainer.global_step <= pl_module.steps:
            self._look(trainer.datamodule, pl_module)  # type: ignore[attr-defined] # set by fit(datamodule=...)

    @torch.no_grad()
    def _look(self, data: MVTecDataModule, module: GaussianAD) -> None:
        copy = copy_of(module).eval()
        copy.calibrate(data.support(module.num_views, module.found_orientations.tolist()))
        data.setup("test")
        metrics = DetectionMetrics(data.defects)
        for batch in data.test_dataloader():
            defect = [
                Path(path).parent.name if label else "" for path, label in zip(batch.path, batch.label, strict=True)
            ]
            anomaly_map, image_score = copy(batch.image)
            metrics.update(anomaly_map, image_score, batch.mask, batch.label, defect)
        found = metrics.compute()[0]
        for name, values in self.metrics.items():
            values.append(found.get(name, float("nan")))


def mean(runs: list[dict[str, Any]], name: str) -> np.ndarray:
    """Of a metric over the runs that have it, at every check."""
    having = [run[name] for run in runs if not np.isnan(run[name]).any()]
    return np.mean(having, axis=0) if having else np.full(len(runs[0]["step"]), np.nan)


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Prints how means change with the steps, and what the choice lost against hindsight, as Markdown."""
    step = [int(number) for number in runs[0]["step"]]
    print(f"\nlearning rate {runs[0]['learning_rate']:g}, n = {len(runs)}\n\n| mean | {' | '.join(map(str, step))} |")
    print("|---|" + "---|" * len(step))
    for name in ("validation", *METRICS):
        means = mean(runs, name)
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in means)} |")
    by_category: dict[str, list[list[float]]] = defaultdict(list)
    for run in runs:
        scores = dict(zip(step, run["image_auroc"], strict=True))
        by_category[run["category"]].append([scores[0], scores[step[-1]], scores[run["chosen"]], max(scores.values())])
    print("\n| image AUROC | frozen | last step | chosen | best in hindsight |\n|---|---|---|---|---|")
    rows = {category: np.mean(values, axis=0) for category, values in by_category.items()}
    rows["**mean**"] = np.mean(list(rows.values()), axis=0)
    for category, row in rows.items():
        print(f"| {category} | {' | '.join(f'{value:.3f}' for value in row)} |")


def draw(groups: Sequence[list[dict[str, Any]]], figure: Path) -> None:
    """Draws the mean curves, a column per learning rate."""
    mpl.use("agg")
    from matplotlib import pyplot

    canvas, columns = pyplot.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.2), sharey=True, squeeze=False)
    for axes, runs in zip(columns[0], groups, strict=True):
        for name, label in (
            ("validation", "support: AUROC of pseudo-anomalies"),
            *((m, f"test: {m}") for m in METRICS),
        ):
            axes.plot(runs[0]["step"], mean(runs, name), marker="o", label=label)
        axes.set(title=f"learning rate {runs[0]['learning_rate']:g}", xlabel="step")
    columns[0][0].legend(fontsize=7)
    canvas.tight_layout()
    canvas.savefig(figure)


if __name__ == "__main__":
    main()
