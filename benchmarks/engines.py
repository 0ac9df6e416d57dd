"""How much faster the engines of the bench are than one process, and whether the scores stay the same.

    .venv/bin/python benchmarks/engines.py --root mvtec_ad other elpv --shots 1 2 --seeds 0 1 2 --engines serial local

Every engine runs the whole command `python -m anomaly_zoo.bench` in a fresh store, W&B off, one after the other:
imports, checks and start of the workers included. Take it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anomaly_zoo.grid.engine import cores
from anomaly_zoo.results import Result, load_all


def measure(engine: str, args: argparse.Namespace, store: Path) -> tuple[float, list[Result]]:
    """Seconds of one bench from start to exit, and its results.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, "-m", "anomaly_zoo.bench", "--method", args.method, "--engine", engine]
    command += ["--root", *map(str, args.root), "--category", *args.category, "--results", str(store)]
    command += ["--shots", *map(str, args.shots), "--seeds", *map(str, args.seeds)]
    command += ["--workers", str(args.workers)] if args.workers else []
    begin = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"WANDB": "0"}, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{engine} failed with exit status {done.returncode}: {done.stderr or done.stdout[-2000:]}")
    return seconds, load_all(store)


def difference(results: list[Result], others: list[Result]) -> float:
    """Largest difference of an image score, relative to the largest score of its run."""
    largest = 0.0
    for result, other in zip(results, others, strict=True):
        assert (result.cell, len(result.images)) == (other.cell, len(other.images))
        scale = max(abs(image["score"]) for image in result.images)
        for image, twin in zip(result.images, other.images, strict=True):
            largest = max(largest, abs(image["score"] - twin["score"]) / scale)
    return largest


def main() -> int:
    """Prints a row per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, nargs="+", required=True, help="folders in the MVTec layout")
    parser.add_argument("--category", nargs="+", default=["all"])
    parser.add_argument("--method", default="patchcore")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--engines", nargs="+", default=["serial", "local"], choices=["serial", "local", "ray"])
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    load = f"load before {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {cores()} cores, {load}, python {platform.python_version()}")
    print("| engine | cells | seconds | times faster | largest difference of a score |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="engines_") as folder:
        first_s, first = 0.0, []
        for engine in args.engines:
            seconds, results = measure(engine, args, Path(folder) / engine)
            first_s, first = (first_s, first) if first else (seconds, results)
            row = f"| {engine} | {len(results)} | {seconds:.1f} | {first_s / seconds:.2f}"
            print(f"{row} | {difference(results, first):.1e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
