"""Kills the bench at random moments, resumes it, and checks that nothing is lost, doubled or damaged.

    .venv/bin/python benchmarks/kill_drill.py --kills 200

Each round is a grid of small cells in a new store. SIGKILL goes to the driver or to one of its workers, after a random
time; a killed driver is started again with the same command. When the round's grid is complete, every cell must be in
the store once, valid, with the scores of an undisturbed run. Linux only: it looks for workers in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from anomaly_zoo.results import Result, load_all

_IS_WORKER = "multiprocessing.forkserver"
_SIZE_PX = 48
_ORPHAN_S = 10.0
_AT_WORK = 0.9  # of the kills, while a driver starts there is little to break


def write_dataset(root: Path) -> Path:
    """Two categories of noise with bright squares as defects, in the MVTec layout."""
    rng = np.random.default_rng(0)
    for category in ("alpha", "beta"):
        for folder, count in (("train/good", 4), ("test/good", 3), ("test/square", 3)):
            for index in range(count):
                image = rng.integers(60, 120, (_SIZE_PX, _SIZE_PX, 3), dtype=np.uint8)
                if folder == "test/square":
                    image[10:25, 10:25] = 240
                path = root / category / folder / f"{index:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image)
    return root


def start(root: Path, store: Path, seeds: int, workers: int) -> subprocess.Popen[bytes]:
    """Starts a bench, as a user would."""
    command = [sys.executable, "-m", "anomaly_zoo.bench", "--method", "patchcore", "--root", str(root)]
    command += ["--results", str(store), "--shots", "1", "2", "--seeds", *map(str, range(seeds))]
    command += ["--image-size", "64", "--engine", "local", "--workers", str(workers), "--retries", "5"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | {"WANDB": "0"}, **quiet)  # type: ignore[call-overload,no-any-return]


def workers_of(driver: int) -> list[int]:
    """Process ids of the workers that a driver has now; they are forked from a server of its."""
    servers = [pid for pid in _children(driver) if _IS_WORKER in _command_line(pid)]
    return [pid for server in servers for pid in _children(server)]


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command_line(pid: str | int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def kill(pid: int) -> bool:
    """SIGKILL; False if the process was gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for_orphans(pids: list[int]) -> None:
    """Waits until the workers of a killed driver have ended.

    Raises:
        AssertionError: if one lives on.
    """
    deadline = time.monotonic() + _ORPHAN_S
    while alive := [pid for pid in pids if _IS_WORKER in _command_line(pid)]:
        assert time.monotonic() < deadline, f"workers outlive their driver: {alive}"
        time.sleep(0.05)


def wait_for_workers(driver: subprocess.Popen[bytes]) -> None:
    """Waits until the driver has workers, or has ended."""
    while driver.poll() is None and not workers_of(driver.pid):
        time.sleep(0.02)


def drill(root: Path, store: Path, args: argparse.Namespace, rng: random.Random, killed: Counter[str]) -> None:
    """One round: a new store, kills until the grid is complete or enough were killed, then a last resume."""
    driver = start(root, store, args.seeds, args.workers)
    while driver.poll() is None and sum(killed.values()) < args.kills:
        if rng.random() < _AT_WORK:  # else it may still be starting
            wait_for_workers(driver)
        time.sleep(rng.uniform(0, args.pause))
        workers = workers_of(driver.pid)
        target = rng.choice([None, *workers, *workers])
        if target is not None:
            killed["worker"] += kill(target)
        elif driver.poll() is None and kill(driver.pid):
            driver.wait()
            killed["driver"] += 1
            wait_for_orphans(workers)
            driver = start(root, store, args.seeds, args.workers)
    for _ in range(3):  # cells that were killed too often are failed; the same command repeats them
        if driver.wait() == 0:
            break
        driver = start(root, store, args.seeds, args.workers)


class Essence(NamedTuple):
    """What of a cell must not depend on being killed."""

    category: str
    shots: int
    seed: int
    status: str
    metrics: tuple[tuple[str, float | None], ...]
    scores: tuple[tuple[str, str, float], ...]


def essence(result: Result) -> Essence:
    """The essence of one result."""
    scores = tuple((Path(image["path"]).name, image["defect"], image["score"]) for image in result.images)
    return Essence(
        result.category, result.shots, result.seed, result.status, tuple(sorted(result.metrics.items())), scores
    )


def _difference(found: list[Essence], wanted: list[Essence]) -> str:
    """The first cell that is missing, doubled or other than in the undisturbed run."""
    if [cell[:3] for cell in found] != [cell[:3] for cell in wanted]:
        return f"cells {[cell[:3] for cell in found]} instead of {[cell[:3] for cell in wanted]}"
    cell, should = next(pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1])
    field, is_now, was = next(
        fields for fields in zip(Essence._fields, cell, should, strict=True) if fields[1] != fields[2]
    )
    return f"{cell[:3]} has the {field} {is_now} instead of {was}"


def main() -> int:
    """Runs rounds until enough processes were killed; returns 0 if every round ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10, help="a round has four cells per seed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=4.0, help="longest time between two kills, in seconds")
    parser.add_argument("--random-seed", type=int, default=0)
    args = parser.parse_args()
    rng, killed, rounds = random.Random(args.random_seed), Counter[str](), 0  # noqa: S311
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill_drill_") as folder:
        root = write_dataset(Path(folder) / "noise")
        reference = Path(folder) / "reference"
        assert start(root, reference, args.seeds, args.workers).wait() == 0, "the undisturbed run failed"
        wanted = [essence(result) for result in load_all(reference)]
        assert len(wanted) == 4 * args.seeds
        while sum(killed.values()) < args.kills:
            store = Path(folder) / f"round {rounds}"
            drill(root, store, args, rng, killed)
            found = [essence(result) for result in load_all(store)]
            assert found == wanted, f"round {rounds}: {_difference(found, wanted)}"
            rounds += 1
            print(f"round {rounds}: {len(found)} cells whole; killed so far: {dict(killed)}", flush=True)
    cells = rounds * len(wanted)
    print(
        f"{sum(killed.values())} kills ({dict(killed)}), {rounds} rounds, {cells} cells: none lost, doubled or damaged"
    )
    print(f"{time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
