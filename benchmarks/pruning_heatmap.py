"""Draws how pf scores by pruning criterion and ratio, from the results of its ablation.

    make ablate METHOD=pf
    .venv/bin/python benchmarks/pruning_heatmap.py --results results/ablations/pf --metric aupro --output heatmap.svg

Reads the results of `pf` and its variants `<criterion>` and `<criterion>_<percent>`. A cell is the mean over all runs
of its method and over the same categories, shots and seeds as every other cell; a cell that lacks some stays empty.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

from anomaly_zoo.results import Result, load_all

CELL_PX, LEFT_PX, TOP_PX = (84, 40), 100, 40
Scores = dict[tuple[str, int], dict[tuple[str, str, int, int], float]]


def read(store: Path, metric: str) -> Scores:
    """The metric of every run, by criterion and percent.

    Raises:
        SystemExit: If the store has no such results.
    """
    scores: Scores = defaultdict(dict)
    for result in load_all(store):
        if result.status == "ok" and metric in result.metrics and (cell := pruned(result)):
            run = (result.dataset, result.category, result.shots, result.seed)
            scores[cell][run] = result.metrics[metric]
    if not scores:
        raise SystemExit(f"{store} has no {metric} of pf:<criterion>_<percent>: run `make ablate METHOD=pf` first")
    return scores


def pruned(result: Result) -> tuple[str, int] | None:
    """Criterion and percent of a run of pf, None if more than these was changed."""
    method, _, variant = result.method.partition(":")
    if method != "pf":
        return None
    given = result.config["model"]["init_args"]
    alone = re.fullmatch(rf"(?:{given['criterion']}(?:_channels|_\d+)?)?", variant)
    return (given["criterion"], round(100 * given["pruning_ratio"])) if alone else None


def draw(scores: Scores, metric: str) -> str:
    """The heat map as SVG: criteria from best to worst, ratios from left to right, the mean in every cell."""
    runs = set.union(*(set(cell) for cell in scores.values()))
    means = {key: mean(cell.values()) for key, cell in scores.items() if set(cell) == runs}
    percents = sorted({percent for _, percent in scores})
    best = {
        criterion: max((means[key] for key in means if key[0] == criterion), default=0.0) for criterion, _ in scores
    }
    criteria = sorted(best, key=lambda criterion: -best[criterion])
    low, high = min(means.values(), default=0.0), max(means.values(), default=1.0)
    width, height = LEFT_PX + CELL_PX[0] * len(percents), TOP_PX + CELL_PX[1] * len(criteria) + 24
    parts = [f'<text x="{LEFT_PX + CELL_PX[0] * i + 42}" y="28">{p} %</text>' for i, p in enumerate(percents)]
    for row, criterion in enumerate(criteria):
        y = TOP_PX + CELL_PX[1] * row
        parts.append(f'<text x="{LEFT_PX - 48}" y="{y + 25}">{criterion}</text>')
        for column, percent in enumerate(percents):
            value = means.get((criterion, percent))
            if value is None:
                continue
            share = (value - low) / (high - low) if high > low else 1.0
            colour, ink = f"hsl(230 60% {95 - 60 * share:.0f}%)", "#fff" if share > 0.5 else "#000"
            x = LEFT_PX + CELL_PX[0] * column
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL_PX[0] - 2}" height="{CELL_PX[1] - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{x + 41}" y="{y + 25}" fill="{ink}">{value:.3f}</text>')
    parts.append(f'<text x="{width // 2}" y="{height - 8}">{metric}, mean of n = {len(runs)} runs per cell</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="14" text-anchor="middle">', *parts, "</svg>", ""])


def main() -> None:
    """Reads the command line and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--metric", default="aupro", help="a metric of the results")
    parser.add_argument("--output", type=Path, required=True, help="the SVG file to write")
    args = parser.parse_args()
    svg = draw(read(args.results, args.metric), args.metric)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(svg)
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
