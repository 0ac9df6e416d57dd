"""Speed and memory of our exact metrics against anomalib's AUPRO: same arrays, same process, same run.

Needs both packages, so it runs with the interpreter of the peer environment:

    PYTHONPATH=src .venv-peers/bin/python benchmarks/metrics.py

Each figure is the median of several repeats, in turns, after one that is not counted. Two more rows: all five pixel
metrics of the split, which share one sort, and `detection_metrics`, which adds the image metrics and computes
everything once more for every defect.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from anomaly_zoo.measures import PIXEL_METRICS
from anomaly_zoo.metrics import aupro, detection_metrics
from anomaly_zoo.metrics.detection import _Images, _pixel_metrics

DEFECTS = ("broken", "scratch", "contamination")
TOLERANCE = 1e-4  # anomalib sums in float32

console = Console(width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class Split:
    """Anomaly maps and masks of a test split; a quarter of the images is normal."""

    anomaly_map: torch.Tensor
    mask: torch.Tensor
    label: torch.Tensor
    defect: list[str]
    peer_batch: ImageBatch  # the same tensors as anomalib wants them, made beforehand so that it costs no time

    @property
    def image_score(self) -> torch.Tensor:
        """Highest score of each image."""
        return self.anomaly_map.amax((1, 2))


def make_split(num_images: int, size_px: int) -> Split:
    """Draws smooth anomaly maps, somewhat raised inside one to four blobs per anomalous image."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:size_px, :size_px]
    maps = np.empty((num_images, size_px, size_px), dtype=np.float32)
    masks = np.zeros((num_images, size_px, size_px), dtype=bool)
    for index in range(num_images):
        noise = ndimage.gaussian_filter(random.standard_normal((size_px, size_px), dtype=np.float32), size_px / 64)
        maps[index] = noise / noise.std()
        for _ in range(random.integers(1, 5) if index % 4 else 0):
            radius = size_px * random.uniform(0.02, 0.1)
            row, column = random.uniform(radius, size_px - radius, size=2)
            masks[index] |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        maps[index] += random.uniform(0.5, 3) * masks[index]
    label = np.any(masks.reshape(num_images, -1), axis=1)
    defect = [DEFECTS[index % len(DEFECTS)] if anomalous else "" for index, anomalous in enumerate(label)]
    anomaly_map, mask = torch.from_numpy(maps), torch.from_numpy(masks)
    image = torch.empty(1, 1, 1, 1).expand(num_images, 3, size_px, size_px)  # a batch must have images; takes no memory
    batch = ImageBatch(image=image, anomaly_map=anomaly_map, gt_mask=mask)
    return Split(anomaly_map, mask, torch.from_numpy(label), defect, batch)


def ours_aupro(split: Split) -> float:
    """AUPRO by anomaly_zoo."""
    return float(aupro(split.anomaly_map, split.mask, fpr_limit=0.3))


def ours_pixel(split: Split) -> float:
    """All five pixel metrics of the split by anomaly_zoo; returns the AUPRO among them."""
    maps, masks = list(split.anomaly_map.numpy()), list(split.mask.numpy())
    values = _pixel_metrics(_Images(maps, split.image_score.numpy(), masks, split.label.long().numpy() - 1))
    found = dict(zip(PIXEL_METRICS, values, strict=True))["aupro"]
    assert isinstance(found, float)  # it is defined
    return found


def ours_all(split: Split) -> float:
    """All metrics of the protocol by anomaly_zoo; returns the AUPRO among them."""
    scores = detection_metrics(split.anomaly_map, split.image_score, split.mask, split.label, split.defect)
    return scores.metrics["aupro"]


def peer_aupro(split: Split) -> float:
    """AUPRO by anomalib."""
    metric = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=0.3)
    metric.update(split.peer_batch)
    return float(metric.compute())


def resident_bytes(field: str) -> int:
    """Reads `VmRSS` (now) or `VmHWM` (peak since the last reset) of this process; Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_extra_bytes(compute: Callable[[Split], float], split: Split) -> float:
    """Peak resident memory beyond what was resident before, in bytes per pixel; NaN where the system cannot tell.

    It sees NumPy's and torch's memory alike; `tracemalloc` sees only NumPy's.
    """
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs freed counts as free
        Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
        before = resident_bytes("VmRSS")
    except OSError:
        return float("nan")
    compute(split)
    return (resident_bytes("VmHWM") - before) / split.mask.numel()


def measure(split: Split, repeats: int) -> dict[str, tuple[float, float, float]]:
    """Returns value, median seconds and peak bytes per pixel of every implementation."""
    competitors = {
        "ours aupro": ours_aupro,
        "ours, pixel metrics": ours_pixel,
        "ours, all metrics": ours_all,
        "anomalib AUPRO": peer_aupro,
    }
    values, memory = {}, {}
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for name, compute in competitors.items():
        with console.status(f"memory of {name}"):
            values[name] = compute(split)  # warm
            memory[name] = peak_extra_bytes(compute, split)
    for repeat in range(repeats):  # in turns, so that a busy moment hits all alike
        for name, compute in competitors.items():
            with console.status(f"{name}, repeat {repeat + 1} of {repeats}"):
                start_s = time.perf_counter()
                compute(split)
                seconds[name].append(time.perf_counter() - start_s)
    return {name: (values[name], statistics.median(seconds[name]), memory[name]) for name in competitors}


def main() -> None:
    """Prints one table for all sizes; exits with 1 where the two AUPRO values disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["83x256", "40x1024"], help="number of maps x side in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    if os.getloadavg()[0] > 0.5:
        console.print(f"[yellow]The machine is busy (load {os.getloadavg()[0]:.1f}): do not report these timings.[/]")
    table = Table(title=f"Metrics of a test split, medians of {args.repeats}")
    for name in ("maps", "implementation", "seconds", "ratio", "extra bytes/pixel", "AUPRO"):
        table.add_column(name, justify="left" if name == "implementation" else "right")
    agree = True
    for size in args.sizes:
        num_images, size_px = (int(number) for number in size.split("x"))
        split = make_split(num_images, size_px)
        rows = measure(split, args.repeats)
        reference_value, reference_s, _ = rows["ours aupro"]
        for name, (value, seconds, memory) in rows.items():
            agree &= abs(value - reference_value) < TOLERANCE
            label = f"{num_images} of {size_px} px"
            table.add_row(
                label, name, f"{seconds:.3f}", f"{seconds / reference_s:.1f}x", f"{memory:.0f}", f"{value:.6f}"
            )
        table.add_section()
    console.print(table)
    packages = ", ".join(f"{name} {version(name)}" for name in ("anomalib", "torch", "numpy"))
    console.print(
        f"[dim]{platform.machine()}, {os.cpu_count()} logical cores, {torch.get_num_threads()} torch threads, "
        f"python {platform.python_version()}, {packages}[/]",
        highlight=False,
    )
    if not agree:
        raise SystemExit(f"the AUPRO values differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
