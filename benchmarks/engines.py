"""How much faster the engines of the bench are than one process, and whether the scores stay the same.

    .venv/bin/python benchmarks/engines.py --root mvtec_ad other elpv --shots 1 2 --seeds 0 1 2 \
        --engines one-core serial local ray-loses-a-node

`serial` is one process with all cores, `one-core` the same with a single thread. `ray-loses-a-node` runs on a cluster
of two nodes on this machine, one of which is killed when half of the cells are done. Every engine runs the whole
command `python -m anomaly_zoo.bench` in a fresh store, W&B off, one after the other: imports, checks and start of the
workers included. Take it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from anomaly_zoo.grid.engine import cores
from anomaly_zoo.results import Result, load_all

ENGINES = ("one-core", "serial", "local", "ray", "ray-loses-a-node")


def measure(engine: str, args: argparse.Namespace, store: Path, half: int) -> tuple[float, list[Result]]:
    """Seconds of one bench from start to exit, and its results.

    Raises:
        SystemExit: if it fails.
    """
    name = {"one-core": "serial", "ray-loses-a-node": "ray"}.get(engine, engine)
    command = [sys.executable, "-m", "anomaly_zoo.bench", "--method", args.method, "--engine", name]
    command += ["--root", *map(str, args.root), "--category", *args.category, "--results", str(store)]
    command += ["--shots", *map(str, args.shots), "--seeds", *map(str, args.seeds)]
    command += ["--workers", str(args.workers)] if args.workers else []
    environment = os.environ | {"WANDB": "0"} | ({"OMP_NUM_THREADS": "1"} if engine == "one-core" else {})
    cluster: AbstractContextManager[list[str]] = nullcontext([])
    if engine == "ray-loses-a-node":
        cluster = losing_a_node(store, half)
    with cluster as address:
        begin = time.perf_counter()
        done = subprocess.run([*command, *address], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{engine} failed with exit status {done.returncode}: {done.stderr or done.stdout[-2000:]}")
    return seconds, load_all(store)


@contextmanager
def losing_a_node(store: Path, half: int) -> Iterator[list[str]]:
    """A Ray cluster of two nodes with a core each; one is killed when half of the cells are in the store."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.2):
            if len(load_all(store)) >= half:
                cluster.remove_node(lost, allow_graceful=False)
                print(f"killed a node after {len(load_all(store))} cells", file=sys.stderr)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield ["--address", cluster.address]
    finally:
        ended.set()
        killer.join()
        cluster.shutdown()  # type: ignore[no-untyped-call]


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
    parser.add_argument("--engines", nargs="+", default=["serial", "local"], choices=ENGINES)
    parser.add_argument("--workers", type=int)
    args = parser.parse_args()
    load = f"load before {os.getloadavg()[0]:.1f}"
    print(f"{platform.machine()}, {cores()} cores, {load}, python {platform.python_version()}")
    print("| engine | cells | seconds | times faster | largest difference of a score |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="engines_") as folder:
        first_s = 0.0
        first: list[Result] = []
        for engine in args.engines:
            seconds, results = measure(engine, args, Path(folder) / engine, len(first) // 2)
            first_s, first = (first_s, first) if first else (seconds, results)
            row = f"| {engine} | {len(results)} | {seconds:.1f} | {first_s / seconds:.2f}"
            print(f"{row} | {difference(results, first):.1e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
