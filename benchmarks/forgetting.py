"""How gaussian forgets: test scores after more and more steps, and the step that its support chose against the best.

    .venv/bin/python benchmarks/forgetting.py --data parts/bracket parts/nut --steps 40 --check-every 10 \
        --learning-rate 1e-4 --store forgetting.jsonl --figure forgetting.svg
    .venv/bin/python benchmarks/forgetting.py --store forgetting.jsonl

Test images are looked at only here, to judge in hindsight; what the method chose comes from its support. Every point of
a curve is a run that is not stopped, so that forgetting shows; all hold out the same images. Runs that the store holds
already are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from anomaly_zoo.config import build, quiet, resolve

METRICS = ("image_auroc", "aupro")


def main() -> None:
    """Runs what is missing, then prints the tables and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="category folders in the MVTec layout")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40, help="a multiple of --check-every")
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


def measure(
    folder: Path, seed: int, shots: int, steps: int, check_every: int, learning_rate: float
) -> dict[str, list[float] | list[int] | int]:
    """What the test split says after every `check_every` steps, and the step that the method keeps."""
    data = [f"--data.root={folder.parent}", f"--data.category={folder.name}", f"--data.shots={shots}"]
    shared = [*data, f"--seed_everything={seed}", f"--model.init_args.learning_rate={learning_rate}"]
    step = list(range(0, steps + 1, check_every))
    found = [test([*shared, *_training(number, steps + 1)])[0] for number in step]  # never checked, so never stopped
    curves = {name: [metrics.get(name, float("nan")) for metrics in found] for name in METRICS}
    return {"step": step, "chosen": test([*shared, *_training(steps, check_every)])[1], **curves}


def _training(steps: int, check_every: int) -> list[str]:
    return [f"--model.init_args.steps={steps}", f"--model.init_args.check_every={check_every}"]


@quiet()
def test(options: list[str]) -> tuple[dict[str, float], int]:
    """Fits and tests gaussian by itself, without the memory; the metrics, and the step that was kept."""
    cli = build(resolve("gaussian_paper", [*options, "--trainer.enable_progress_bar=false"]))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return cli.evaluation.metrics, int(cli.model.kept_step)


def mean(runs: list[dict[str, Any]], name: str) -> np.ndarray:
    """Of a metric over the runs that have it, at every check."""
    having = [run[name] for run in runs if not np.isnan(run[name]).any()]
    return np.mean(having, axis=0) if having else np.full(len(runs[0]["step"]), np.nan)


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Prints how means change with the steps, and what the choice lost against hindsight, as Markdown."""
    step = [int(number) for number in runs[0]["step"]]
    print(f"\nlearning rate {runs[0]['learning_rate']:g}, n = {len(runs)}\n\n| mean | {' | '.join(map(str, step))} |")
    print("|---|" + "---|" * len(step))
    for name in METRICS:
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
        for name in METRICS:
            axes.plot(runs[0]["step"], mean(runs, name), marker="o", label=name)
        axes.set(title=f"learning rate {runs[0]['learning_rate']:g}", xlabel="step")
    columns[0][0].legend(fontsize=7)
    canvas.tight_layout()
    canvas.savefig(figure)


if __name__ == "__main__":
    main()
