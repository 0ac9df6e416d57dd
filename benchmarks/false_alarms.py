"""False alarms promised against found: the threshold from the support, on normal images that no one has looked at.

    .venv/bin/python benchmarks/false_alarms.py --data parts/bracket parts/nut --methods patchcore coft --shots 8 \
        --seeds 0 1 2 --store false_alarms.jsonl
    .venv/bin/python benchmarks/false_alarms.py --store false_alarms.jsonl --table

A line per run: the held-out scores of the support, those of the normal test images and of the normal training images
outside the support, and those of the anomalous test images. The table applies `tail_quantile` to them for every rate.
Runs that the store holds already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_zoo.config import build, quiet, resolve
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.adapting import make_model
from anomaly_zoo.deploy.calibration import tail_quantile
from anomaly_zoo.deploy.torch_inspector import TorchInspector

RATES = (0.01, 0.05, 0.1, 0.2)


def main() -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="category folders in the MVTec layout")
    parser.add_argument("--methods", nargs="*", default=["patchcore"])
    parser.add_argument("--shots", nargs="*", type=int, default=[8])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--max-images", type=int, default=80, help="of every kind, evenly over the sorted files")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    cells = [
        {"method": method, "shots": shots, "category": folder.name, "seed": seed, "folder": folder}
        for seed in options.seeds
        for method in options.methods
        for shots in options.shots
        for folder in options.data
    ]
    done = {_key(run) for run in _runs(options.store)}
    for cell in [] if options.table else cells:
        if _key(cell) not in done:
            run = measure(**cell, max_images=options.max_images)
            with options.store.open("a") as store:
                store.write(json.dumps(run) + "\n")
            print(*_key(run), f"{run['seconds']:.0f} s", flush=True)
    print_tables(_runs(options.store))


@quiet()
def measure(folder: Path, method: str, shots: int, category: str, seed: int, max_images: int) -> dict[str, Any]:
    """Adapts, calibrates, and scores normal images outside the support, and anomalous ones."""
    start = time.perf_counter()
    data = [f"--data.root={folder.parent}", f"--data.category={category}", f"--data.shots={shots}"]
    trainer = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", f"--seed_everything={seed}"]
    cli = build(resolve(method, [*data, *trainer]))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    model = make_model(cli.model, cli.datamodule)
    inspector = TorchInspector(model)
    support = {path.name for path in cli.datamodule.support_files}
    unused = [path for path in image_files(folder / "train" / "good") if path.name not in support]
    defects = [path for path in sorted((folder / "test").iterdir()) if path.is_dir() and path.name != "good"]
    kinds = {
        "test": image_files(folder / "test" / "good"),
        "unused": unused,
        "anomalous": [path for defect in defects for path in image_files(defect)],
    }
    scores = {kind: _scores(inspector, files[:: -(-len(files) // max_images) or 1]) for kind, files in kinds.items()}
    held_out = model.calibration.image_scores
    names = {"method": method, "shots": shots, "category": category, "seed": seed}
    return {**names, "held_out": held_out, **scores, "seconds": time.perf_counter() - start}


def _scores(inspector: TorchInspector, files: list[Path]) -> list[float]:
    return [inspector.inspect([read_image(path)])[0].image_score for path in files]


def _runs(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read_text().splitlines()] if store.is_file() else []


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["method"], run["shots"], run["category"], run["seed"]


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Prints a Markdown table for every method and number of shots: a row per category, then their mean."""
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run["method"], run["shots"]][run["category"]].append(run)
    for (method, shots), by_category in sorted(groups.items()):
        head = [
            "category",
            "n",
            *(f"{kind} at {rate}" for rate in RATES for kind in ("test", "unused")),
            "recall at 0.05",
        ]
        print(f"\n{method}, {shots} shots\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        rows = {category: _row(some) for category, some in by_category.items()}
        for category, row in rows.items():
            print(f"| {category} | {len(by_category[category])} | {' | '.join(f'{value:.3f}' for value in row)} |")
        means = np.nanmean(list(rows.values()), axis=0)
        print(f"| **mean** | | {' | '.join(f'{value:.3f}' for value in means)} |")


def _row(runs: list[dict[str, Any]]) -> list[float]:
    """Means over the seeds of the shares above the threshold."""
    kinds = [(kind, rate) for rate in RATES for kind in ("test", "unused")] + [("anomalous", 0.05)]
    return [
        float(np.mean([np.mean(np.array(run[kind]) > tail_quantile(run["held_out"], rate)) for run in runs]))
        for kind, rate in kinds
    ]


if __name__ == "__main__":
    main()
