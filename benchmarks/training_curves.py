"""Draws what a method logs while it trains: its losses, and the score by which its support stops it.

    .venv/bin/python benchmarks/training_curves.py --method coft --data datasets/elpv/mono \
        --options steps=40 patience=40 learning_rate=1e-4 --output curves.svg

No test image is read. `--options` are constructor arguments of the method.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
from lightning.pytorch.loggers import CSVLogger

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.nn.validation import SupportStop

Curves = dict[str, list[tuple[int, float]]]


@quiet()
def train(method: str, folder: Path, options: list[str], seed: int) -> Curves:
    """Adapts a method to 8 shots of a category; returns step and value of everything that was logged."""
    where = [f"--data.root={folder.parent}", f"--data.category={folder.name}", f"--seed_everything={seed}"]
    arguments = [f"--model.init_args.{option}" for option in options]
    cli = build(resolve(method, [*where, *arguments, "--trainer.enable_progress_bar=false"]))
    with tempfile.TemporaryDirectory() as scratch:
        logger = CSVLogger(scratch, flush_logs_every_n_steps=1)
        cli.trainer.loggers = [logger]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        logger.save()
        with (Path(logger.log_dir) / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    curves: Curves = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if value and name.startswith("train/"):
                curves[name].append((int(row["step"]), float(value)))
    if isinstance(stop := getattr(cli.model, "stop", None), SupportStop):
        curves["validation/auroc"] = [(int(step), score) for step, score in stop.curve.tolist()]
    return curves


def draw(curves: Curves, title: str, output: Path) -> None:
    """Losses on the left, validation scores on the right."""
    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.2))
    for name, points in sorted(curves.items()):
        column = axes[0] if name.startswith("train/") else axes[1]
        column.plot(*zip(*points, strict=True), marker="." if column is axes[1] else "", label=name)
    for column, label in zip(axes, ("loss", "AUROC of held-out images"), strict=True):
        column.set(xlabel="step", ylabel=label)
        column.legend(fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(output)


def main() -> None:
    """Reads the command line, trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="coft")
    parser.add_argument("--data", type=Path, required=True, help="a category folder in the MVTec layout")
    parser.add_argument("--options", nargs="*", default=[], help="NAME=VALUE of the method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="an image file")
    arguments = parser.parse_args()
    curves = train(arguments.method, arguments.data, arguments.options, arguments.seed)
    draw(curves, f"{arguments.method}, {arguments.data.name}: {', '.join(arguments.options)}", arguments.output)
    for name, points in sorted(curves.items()):
        print(name, *(f"{step}: {value:.4f}" for step, value in points[:: max(1, len(points) // 8)]))


if __name__ == "__main__":
    main()
