"""Compares our methods with anomalib on the same support, test split, backbone and image size, side by side.

    .venv/bin/python benchmarks/vs_anomalib.py --root DIR --category bottle screw --seeds 0 1 2 \
        --ours patchcore coft --models patchcore padim --output report.md

Every run is a process of its own, one after the other. Ours is `python -m anomaly_zoo.bench`, with wandb off and in a
fresh results store; anomalib runs in its own environment, on the support that our run reports having used.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
PEER_PYTHON = REPOSITORY / ".venv-peers" / "bin" / "python"
PEER_SCRIPT = REPOSITORY / "benchmarks" / "peers" / "anomalib_run.py"
BACKBONE = "tf_efficientnet_lite0"
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
HEADER = ("category", "seed", "method", *METRICS.values(), "fit s", "test s", "total s", "ratio", "process s", "MiB")
CAPTION = (
    "fit s: adapting to the support. test s: scoring the test split, metrics included. ratio: total s over that of "
    "the first row of the cell. process s: from start to exit of the process, imports and checks included. "
    "MiB: peak resident memory. Last rows: mean of the scores; median of fit, test, ratio, process and memory."
)

console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` compares `total_s` with the first method of ours in the same cell."""

    category: str
    seed: str
    method: str
    metrics: dict[str, float]
    fit_s: float
    test_s: float
    process_s: float
    peak_rss_mib: float
    ratio: float = 1.0

    @property
    def total_s(self) -> float:
        """Seconds of fit and test together."""
        return self.fit_s + self.test_s

    def cells(self) -> list[str]:
        """Texts in the order of `HEADER`."""
        scores = [f"{self.metrics[name]:.3f}" if name in self.metrics else "-" for name in METRICS]
        times = [f"{self.fit_s:.1f}", f"{self.test_s:.1f}", f"{self.total_s:.1f}", f"{self.ratio:.2f}x"]
        times += [f"{self.process_s:.1f}", f"{self.peak_rss_mib:.0f}"]
        return [self.category, self.seed, self.method, *scores, *times]


def run_process(name: str, command: list[str | Path], **environment: str) -> float:
    """Runs a command to its end and returns its seconds.

    Raises:
        SystemExit: If it fails, after printing the last lines that it wrote.
    """
    start_s = time.perf_counter()
    with console.status(name), tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment)
        log.seek(0)
        text = log.read()
    if process.returncode:
        console.print("\n".join(text.splitlines()[-30:]), markup=False, highlight=False)
        raise SystemExit(f"{name} failed with exit status {process.returncode}; its last lines are above")
    seconds = time.perf_counter() - start_s
    console.print(f"[dim]{name}: {seconds:.1f} s[/]", highlight=False)
    return seconds


def run_ours(method: str, category: str, seed: int, args: argparse.Namespace, scratch: Path) -> tuple[Row, list[Path]]:
    """Runs one of our methods; returns its row and the support images that it used."""
    store = scratch / "results"
    command: list[str | Path] = [sys.executable, "-m", "anomaly_zoo.bench", "--method", method]
    command += ["--dataset", args.dataset, "--root", args.root, "--category", category, "--backbone", BACKBONE]
    command += ["--shots", str(args.shots), "--seeds", str(seed), "--image-size", str(args.image_size)]
    command += ["--results", store, "--force"]
    process_s = run_process(f"ours {method}, {category}, seed {seed}", command, WANDB="0")
    file = store / args.dataset / category / Path(method).stem / f"shots={args.shots}" / f"seed={seed}.json"
    result = json.loads(file.read_text())
    row = Row(
        category=category,
        seed=str(seed),
        method=f"ours {Path(method).stem}",
        metrics=result["metrics"],
        fit_s=result["timing"]["adapt_s"],
        test_s=result["timing"]["test_s"],
        process_s=process_s,
        peak_rss_mib=result["resources"]["peak_rss_mib"],
    )
    support = [find_image(path, args.root, category) for path in result["support"]["paths"]]
    return row, support


def find_image(path: str, root: Path, category: str) -> Path:
    """Finds a support image that a result names, whether relative to the dataset, to the category, or absolute.

    Raises:
        FileNotFoundError: If it is in none of these places.
    """
    for folder in (root, root / category, root / category / "train" / "good"):
        if (folder / path).is_file():  # an absolute path stays itself
            return (folder / path).resolve()
    raise FileNotFoundError(f"support image {path!r} is neither in {root} nor in {root / category}")


def run_peer(model: str, category: str, seed: int, support: list[Path], args: argparse.Namespace, scratch: Path) -> Row:
    """Runs one model of anomalib on the given support."""
    support_file, output = scratch / "support.txt", scratch / "peer.json"
    support_file.write_text("".join(f"{path}\n" for path in support))
    command: list[str | Path] = [args.peer_python, "-W", "ignore", PEER_SCRIPT, "--model", model, "--root", args.root]
    command += ["--category", category, "--shots", str(len(support)), "--seed", str(seed)]
    command += ["--support-file", support_file, "--image-size", str(args.image_size), "--steps", str(args.steps)]
    command += ["--num-workers", str(args.peer_workers), "--output", output]
    command += ["--as-shipped"] if args.as_shipped else []
    process_s = run_process(f"anomalib {model}, {category}, seed {seed}", command)
    result: dict[str, Any] = json.loads(output.read_text())
    args.versions |= result["versions"]
    return Row(
        category=category,
        seed=str(seed),
        method=f"anomalib {model}",
        metrics=result["metrics"],
        fit_s=result["timing"]["fit_s"],
        test_s=result["timing"]["test_s"],
        process_s=process_s,
        peak_rss_mib=result["resources"]["peak_rss_mib"],
    )


def run_cell(category: str, seed: int, args: argparse.Namespace) -> list[Row]:
    """Runs all methods on one category and seed.

    Raises:
        ValueError: If two of our methods did not use the same support.
    """
    rows: list[Row] = []
    supports: list[list[Path]] = []
    with tempfile.TemporaryDirectory(prefix="vs_anomalib_") as folder:
        for method in args.ours:
            row, support = run_ours(method, category, seed, args, Path(folder))
            rows.append(row)
            supports.append(support)
        if any(support != supports[0] for support in supports):
            raise ValueError(f"our methods used different support images for {category}, seed {seed}")
        rows += [run_peer(model, category, seed, supports[0], args, Path(folder)) for model in args.models]
    return [replace(row, ratio=row.total_s / rows[0].total_s) for row in rows]


def summarize(rows: list[Row]) -> list[Row]:
    """One row per method over all its cells: mean scores (where every cell has the score), median times and memory."""
    summary = []
    for method in dict.fromkeys(row.method for row in rows):
        cells = [row for row in rows if row.method == method]
        names = [name for name in METRICS if all(name in cell.metrics for cell in cells)]
        medians = {
            name: statistics.median(getattr(cell, name) for cell in cells)
            for name in ("fit_s", "test_s", "process_s", "peak_rss_mib", "ratio")
        }
        metrics = {name: statistics.mean(cell.metrics[name] for cell in cells) for name in names}
        summary.append(Row(category="all", seed=f"n={len(cells)}", method=method, metrics=metrics, **medians))
    return summary


def show(rows: list[Row], summary: list[Row]) -> None:
    """Prints the table."""
    table = Table(title="anomaly_zoo and anomalib on the same support", caption=CAPTION)
    for name in HEADER:
        table.add_column(name, justify="left" if name in ("category", "method") else "right", no_wrap=True)
    for group in (*([row for row in rows if row.category == name] for name in unique(rows)), summary):
        for row in group:
            table.add_row(*row.cells())
        table.add_section()
    console.print(table)


def unique(rows: list[Row]) -> list[str]:
    """Categories in their order of appearance."""
    return list(dict.fromkeys(row.category for row in rows))


def conditions(args: argparse.Namespace) -> list[str]:
    """What a reader needs to judge the figures; holds no path of this machine."""
    ours = {name: version(name) for name in ("anomaly_zoo", "torch", "torchvision", "timm", "lightning")}
    return [
        f"protocol: {args.dataset}, {args.shots} shots, {BACKBONE}, {args.image_size} px",
        "features: ours at strides 8, 16 and 32, anomalib's at 8 and 16 (blocks.2 and blocks.4)",
        f"machine: {platform.machine()}, {os.cpu_count()} logical cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, load before {args.load:.1f}",
        f"ours: python {platform.python_version()}, " + ", ".join(f"{name} {ours[name]}" for name in ours),
        "peer: " + ", ".join(f"{name} {args.versions[name]}" for name in args.versions),
        "peer set-up: " + ("anomalib's defaults" if args.as_shipped else "lean (see benchmarks/README.md)"),
    ]


def to_markdown(rows: list[Row], args: argparse.Namespace) -> str:
    """The conditions and the table as Markdown."""
    lines = ["# anomaly_zoo and anomalib on the same support", "", *(f"- {line}" for line in conditions(args)), ""]
    lines += [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join([*lines, "", CAPTION, ""])


def parse_args() -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder in the MVTec layout")
    parser.add_argument("--dataset", help="its name in the report (default: the folder's name)")
    parser.add_argument("--category", nargs="+", default=["all"], help="categories (default: all)")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ours", nargs="+", default=["patchcore"], help="our methods")
    parser.add_argument("--models", nargs="+", default=["patchcore"], choices=("patchcore", "padim", "stfpm"))
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of anomalib's stfpm")
    parser.add_argument("--as-shipped", action="store_true", help="anomalib's defaults (see benchmarks/README.md)")
    parser.add_argument("--peer-workers", type=int, default=0, help="data loading processes of anomalib")
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help="interpreter of the peer environment")
    parser.add_argument("--output", type=Path, help="also write the table as Markdown")
    args = parser.parse_args()
    if not args.peer_python.is_file():
        parser.error(f"no peer environment at {args.peer_python}: `make bench-peers` builds it")
    if args.category == ["all"] and args.root.is_dir():
        args.category = sorted(path.name for path in args.root.iterdir() if (path / "train").is_dir())
    for category in args.category or ["*"]:
        if not (args.root / category / "train").is_dir():
            parser.error(f"{args.root / category} is not a category in the MVTec layout (it has no train folder)")
    args.root = args.root.resolve()
    args.dataset = args.dataset or args.root.name
    args.versions = {}
    args.load = os.getloadavg()[0]
    return args


def main() -> None:
    """Runs every cell and prints the table; the file is written anew after each, so that none is lost."""
    args = parse_args()
    if args.load > 0.5:
        console.print(f"[yellow]The machine is busy (load {args.load:.1f}): do not report these timings.[/]")
    rows: list[Row] = []
    summary: list[Row] = []
    for category in args.category:
        for seed in args.seeds:
            rows += run_cell(category, seed, args)
            summary = summarize(rows) if len(rows) > len(args.ours) + len(args.models) else []
            if args.output:
                args.output.parent.mkdir(parents=True, exist_ok=True)
                args.output.write_text(to_markdown(rows + summary, args))
    show(rows, summary)
    for line in conditions(args):
        console.print(f"[dim]{line}[/]", highlight=False)
    if args.output:
        console.print(f"written: {args.output}")


if __name__ == "__main__":
    main()
