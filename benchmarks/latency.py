"""Milliseconds per image of every method, in torch and in onnxruntime, beside anomalib's PatchCore and its exports.

    .venv/bin/python benchmarks/latency.py --root parts --category bracket --methods patchcore coft --threads 2

Decoded images in, scores and maps out: resizing and everything after it counts, reading files does not. Every path
scores the same test images, batch after batch. Wall time is what a user waits; CPU time is beside it because it
hardly changes when other work shares the machine. anomalib runs in its own environment (`make bench-peers` builds it)
with the same backbone, weights, support and image size, without its normalisation and pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
PEER_PYTHON = REPOSITORY / ".venv-peers" / "bin" / "python"
PEER_SCRIPT = REPOSITORY / "benchmarks" / "peers" / "anomalib_latency.py"
HEADER = ("method", "path", "batch", "median ms", "p95 ms", "CPU ms", "median of anomalib's", "CPU of anomalib's")


def measure(
    score: Callable[[list[np.ndarray]], Any], images: list[np.ndarray], batch: int, rounds: int
) -> dict[str, float]:
    """Wall and CPU time per image over `rounds` batches, after two to warm up."""
    wall, cpu = [], []
    for number in range(rounds + 2):
        some = [images[(number * batch + place) % len(images)] for place in range(batch)]
        start, start_cpu = time.perf_counter(), time.process_time()
        score(some)
        wall.append((time.perf_counter() - start) * 1e3 / batch)
        cpu.append((time.process_time() - start_cpu) * 1e3 / batch)
    return {
        "median": statistics.median(wall[2:]),
        "p95": float(np.quantile(wall[2:], 0.95)),
        "cpu": statistics.median(cpu[2:]),
    }


def ours(method: str, options: argparse.Namespace, scratch: Path) -> tuple[dict[str, Any], list[Path]]:
    """Adapts a method, exports it and measures both; also returns the support."""
    import torch

    from anomaly_zoo.config import build, quiet, resolve
    from anomaly_zoo.data.images import read_image
    from anomaly_zoo.deploy.adapting import make_model
    from anomaly_zoo.deploy.export import export_onnx
    from anomaly_zoo.deploy.runtime import OnnxInspector
    from anomaly_zoo.deploy.torch_inspector import TorchInspector
    from anomaly_zoo.freed_memory import keep_freed_memory

    keep_freed_memory()  # as `python -m anomaly_zoo` does
    torch.set_num_threads(options.threads)
    data = [f"--data.root={options.root}", f"--data.category={options.category}", f"--data.shots={options.shots}"]
    cli = build(resolve(method, [*data, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]))
    with quiet():
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        model = make_model(cli.model, cli.datamodule)
    export_onnx(model, scratch / f"{method}.onnx")
    images = [read_image(path) for path in test_images(options)]
    paths = {
        "torch": TorchInspector(model).inspect,
        "onnxruntime": OnnxInspector(scratch / f"{method}.onnx", options.threads).inspect,
    }
    times = {
        f"{name} {batch}": measure(score, images, batch, options.rounds)
        for name, score in paths.items()
        for batch in (1, 8)
    }
    return times, list(cli.datamodule.support_files)


def peer(support: list[Path], options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The same of anomalib's PatchCore, in its environment; nothing if that is not there."""
    if not options.peer.is_file():
        print(f"anomalib is left out: {options.peer} is not there (`make bench-peers` builds it)", file=sys.stderr)
        return {}
    listing = scratch / "support.txt"
    listing.write_text("".join(f"{path}\n" for path in support))
    command = [
        options.peer,
        PEER_SCRIPT,
        "--root",
        options.root,
        "--category",
        options.category,
        "--shots",
        options.shots,
    ]
    command += ["--support-file", listing, "--threads", options.threads, "--rounds", options.rounds]
    environment = os.environ | {"TRUST_REMOTE_CODE": "1", "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run([*map(str, command), "--output", str(scratch / "peer.json")], env=environment)
    return json.loads((scratch / "peer.json").read_text()) if done.returncode == 0 else {}


def test_images(options: argparse.Namespace) -> list[Path]:
    """Up to 32 images, evenly over the test split."""
    files = sorted(path for path in (options.root / options.category / "test").glob("*/*") if path.is_file())
    return files[:: -(-len(files) // 32)]


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in the MVTec layout")
    parser.add_argument("--category", required=True)
    parser.add_argument("--methods", nargs="+", default=["patchcore", "frozen", "coft"])
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peer", type=Path, default=PEER_PYTHON, help="anomalib's interpreter")
    options = parser.parse_args()
    options.root = options.root.resolve()
    with tempfile.TemporaryDirectory(prefix="latency_") as scratch:
        measured = {}
        for method in options.methods:
            measured[method], support = ours(method, options, Path(scratch))
            print(f"measured {method}", file=sys.stderr)
        theirs = peer(support, options, Path(scratch))
    print(f"{options.category}, {options.shots} shots, {options.threads} threads, load {os.getloadavg()[0]:.1f}\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    for method, times in ({"anomalib": theirs} | measured).items():
        for path, time_ms in times.items():
            ratio = " | ".join(
                f"{time_ms[name] / theirs[path][name]:.2f}" if path in theirs else "-" for name in ("median", "cpu")
            )
            numbers = " | ".join(f"{time_ms[name]:.1f}" for name in ("median", "p95", "cpu"))
            name, batch = path.split()
            print(f"| {method} | {name} | {batch} | {numbers} | {ratio} |")


if __name__ == "__main__":
    main()
