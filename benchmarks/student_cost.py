"""Parameters, multiply-accumulate operations and latency of pf's pruned student beside its teacher's, on this machine.

    .venv/bin/python benchmarks/student_cost.py --ratios 0.3 0.6 0.8 --batch 8

Teacher and students are timed in turns, so that what else the machine does meets all of them. Weights do not matter
for the cost, so that none are needed; the criterion is l1.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from anomaly_zoo.freed_memory import keep_freed_memory
from anomaly_zoo.nn.network import Network
from anomaly_zoo.nn.pruning import prune_channels


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulate operations per image, in convolutions, linear layers and attention.
        latency_ms: median milliseconds per batch, warm.
    """

    params: int
    macs: int
    latency_ms: float


@torch.no_grad()
def cost(network: torch.nn.Module, image: torch.Tensor, repeats: int = 20) -> Cost:
    """Counts and times a network on this machine.

    Args:
        network: in evaluation mode, on the images' device.
        image: one batch in [0, 1].
        repeats: timed forward passes, after three untimed ones.
    """
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # the network itself, not its folded copy
        network(image[:1])
    params = sum(parameter.numel() for parameter in network.parameters())
    times = []
    for repeat in range(repeats + 3):
        start = perf_counter()
        network(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        if repeat >= 3:
            times.append(1000 * (perf_counter() - start))
    return Cost(params, counter.get_total_flops() // 2, statistics.median(times))


def measure(args: argparse.Namespace) -> dict[str, Cost]:
    """The costs of the teacher and of a student for every ratio; latencies are medians over the turns."""
    torch.manual_seed(0)
    teacher = Network(args.backbone, weights="none")
    image = torch.rand(args.batch, 3, args.image_size, args.image_size)
    networks: dict[str, torch.nn.Module] = {"teacher": teacher}
    for ratio in args.ratios:
        student = copy.deepcopy(teacher)
        prune_channels(student, ratio, "l1", image)
        networks[f"student, {ratio:.0%} pruned"] = student
    turns = [
        {name: cost(network, image, args.repeats) for name, network in networks.items()} for _ in range(args.turns)
    ]
    return {
        name: Cost(first.params, first.macs, statistics.median(turn[name].latency_ms for turn in turns))
        for name, first in turns[0].items()
    }


def main() -> None:
    """Prints the table and the conditions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.6, 0.8])
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--image-size", type=int, default=256, help="pixels")
    parser.add_argument("--repeats", type=int, default=10, help="timed passes per turn")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    keep_freed_memory()  # as a run does
    costs = measure(args)
    teacher = costs["teacher"]
    table = Table(title=f"{args.backbone}, batch {args.batch}, {args.image_size} px, channels_last")
    for name in ("network", "parameters", "ratio", "MACs per image", "ratio", "ms per batch", "ratio"):
        table.add_column(name, justify="left" if name == "network" else "right", no_wrap=True)
    for name, own in costs.items():
        cells = [f"{own.params / 1e6:.2f} M", f"{own.params / teacher.params:.2f}"]
        cells += [f"{own.macs / 1e6:.0f} M", f"{own.macs / teacher.macs:.2f}"]
        cells += [f"{own.latency_ms:.0f}", f"{own.latency_ms / teacher.latency_ms:.2f}"]
        table.add_row(name, *cells)
    console = Console(width=120)
    console.print(table)
    threads = f"{os.cpu_count()} logical cores, {torch.get_num_threads()} threads, load before {load:.1f}"
    console.print(
        f"{platform.machine()}, {threads}; torch {torch.__version__}, torch-pruning {version('torch-pruning')}"
    )


if __name__ == "__main__":
    main()
