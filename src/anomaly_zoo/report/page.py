"""Gathers what the report says and renders it: numbers from the results, pictures from beside them, one template."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from anomaly_zoo import __version__, published
from anomaly_zoo.report import categories, figures
from anomaly_zoo.report.categories import Figure, as_figure
from anomaly_zoo.report.figures import Look
from anomaly_zoo.results import Result, write_whole
from anomaly_zoo.significance import Comparison, Level, RankTable, comparisons, levels, rankings
from anomaly_zoo.summary import ALL, AVERAGE, BASELINE, Summary, protocols, summarise
from anomaly_zoo.tables import METRICS, costs_of, interval_text, kept_step_0, number, p_text, place, protocol_notes

_COSTS = {"adapt_s": "seconds to adapt", "ms_per_image": "ms per image"}


def write(results: Sequence[Result], file: Path, store: Path, baseline: str = BASELINE) -> Path:
    """Writes the report and returns its file.

    Args:
        results: of one protocol.
        file: what to write; its folder is made when needed.
        store: where the results lie, with the pictures beside them.
        baseline: what gains refer to.

    Raises:
        ValueError: the results are of several protocols, or none succeeded, or pictures are damaged.
    """
    done = [run for run in results if run.status == "ok"]
    if not done:
        raise ValueError("no run succeeded, so there is nothing to report; `--format table` lists the errors")
    shown = _one_protocol(done, baseline)
    write_whole(file, render(done, len(results) - len(done), store, baseline, shown).encode())
    return file


def render(done: Sequence[Result], num_failed: int, store: Path, baseline: str, protocol: dict[str, Any]) -> str:
    """The page of runs that succeeded."""
    methods = sorted({run.method for run in done}, key=lambda name: (name != baseline, name))
    look, shots = Look(methods), main_shots(done)
    at_shots = [run for run in done if run.shots == shots]
    rows, overall = summarise(done, baseline), summarise(at_shots, baseline, "dataset")
    metrics = [name for name in METRICS if any(name in row["metrics"] for row in rows)]
    costs = costs_of(metrics)
    tests = {_key(test): test for test in comparisons(done, baseline)}
    ranks = rankings(done, baseline)
    environment = Environment(
        loader=PackageLoader("anomaly_zoo.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["p"] = p_text
    environment.filters["heading"] = _heading
    return environment.get_template("page.html.j2").render(
        baseline=baseline,
        methods=[(method, look.colour(method)) for method in methods],
        shots=shots,
        num_runs=len(done),
        num_failed=num_failed,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        summary=_summary(at_shots, baseline, shots),
        rows=rows,
        kept_step_0=kept_step_0(row for row in rows if row["category"] != AVERAGE),
        tests=tests,
        key=_key,
        interval=interval_text,
        metrics=metrics,
        costs=costs,
        places=_places(rows, metrics, costs),
        figures=_figures(done, overall, ranks, look, shots),
        ranks=ranks,
        categories=categories.categories(at_shots, rows, store, look, methods, shots),
        published=published.block() if published.concerns({run.dataset for run in done}) else None,
        protocol=json.dumps(protocol, indent=2),
        settings=_settings(done),
        versions=_versions(done),
        support=_support(done),
        version=__version__,
        style=_text("page.css"),
        script=_text("page.js"),
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )


def main_shots(done: Sequence[Result]) -> int:
    """The number of shots with the most runs; the highest of equals."""
    counts = Counter(run.shots for run in done)
    return max(counts, key=lambda shots: (counts[shots], shots))


def _one_protocol(done: Sequence[Result], baseline: str) -> dict[str, Any]:
    found = {json.dumps(shown, sort_keys=True): shown for shown in protocols(done, baseline)}
    several = [found[text] for text in sorted(found)]
    if len(several) > 1:
        which = "; ".join(note.partition(": ")[2] for note in protocol_notes(several))
        raise ValueError(
            f"these runs are of {len(several)} protocols, which must not share a report: {which}. "
            "Choose one with --protocol KEY=VALUE."
        )
    return several[0]


def _summary(at_shots: Sequence[Result], baseline: str, shots: int) -> list[str]:
    """The main results in sentences, best method first."""
    level = [row for row in levels(at_shots) if row["dataset"] == ALL]
    cells = {(run.dataset, run.category) for run in at_shots}
    over_all = comparisons(at_shots, baseline, "shots" if len(cells) > 1 else "category")
    gains = {row["method"]: row for row in over_all}
    sentences = []
    for row in sorted(level, key=lambda row: -row["mean"]):
        over = f"over {row['num_categories']} categories" if row["num_categories"] > 1 else "on one category"
        sentence = (
            f"{row['method']}: mean image AUROC {row['mean']:.3f} "
            f"(95 % interval {interval_text(row['low'], row['high'], '')}) {over} at {shots} shots"
        )
        if test := gains.get(row["method"]):
            sure = f"95 % interval {interval_text(test['low'], test['high'])}, Holm p {p_text(test['p_holm'])}"
            sentence += f"; {test['difference']:+.3f} against {baseline} ({sure})"
        sentences.append(f"{sentence}.")
    return sentences


def _figures(
    done: Sequence[Result], overall: Sequence[Summary], ranks: Sequence[RankTable], look: Look, shots: int
) -> list[Figure]:
    found: list[Figure] = []
    level: list[Level] = levels(done)
    datasets = list(dict.fromkeys(row["dataset"] for row in level))
    alone = len({row["shots"] for row in level}) == 1
    draw, against = (figures.at_shots, f"at {shots} shots") if alone else (figures.against_shots, "against shots")
    for dataset in [ALL, *(name for name in datasets if name != ALL)] if len(datasets) > 2 else datasets[:1]:
        rows = [row for row in level if row["dataset"] == dataset]
        count = rows[0]["num_categories"]
        over = "one category" if count == 1 else f"mean over {count} categories"
        caption = f"Image AUROC {against}, {dataset}, {over}. Intervals: 95 %, bootstrap over test images."
        found.append(as_figure(draw(rows, look), caption))
    last = {row["method"]: row for row in overall}  # the widest average comes last
    here = levels([run for run in done if run.shots == shots])
    means = {row["method"]: row["mean"] for row in here if row["dataset"] == ALL}
    for cost, name in _COSTS.items():
        points = [
            (method, row["metrics"][cost]["mean"], means[method])
            for method, row in last.items()
            if cost in row["metrics"] and method in means and row["metrics"][cost]["mean"] > 0
        ]
        where = next(iter(last.values()))["dataset"]
        caption = f"Image AUROC against {name} at {shots} shots, {where}. Nothing on the dotted line is beaten in both."
        found.append(as_figure(figures.against_cost(points, name, look), caption))
    for table in (table for table in ranks if table["shots"] == shots):
        caption = (
            f"Critical-difference diagram of {table['metric']} at {shots} shots over {table['num_cells']} categories: "
            "methods joined by a bar do not differ at the 5 % level (Nemenyi)."
        )
        found.append(as_figure(figures.critical_difference(table, look), caption))
    return found


def _key(row: Summary | Comparison) -> tuple[str, str, int, str]:
    return row["dataset"], row["category"], row["shots"], row["method"]


def _places(
    rows: Sequence[Summary], metrics: Sequence[str], costs: Collection[str]
) -> dict[tuple[str, str, int, str, str], int]:
    """1 and 2 for the best and the second best method of a category, by `_key` and metric."""
    cells: dict[tuple[str, str, int], list[Summary]] = defaultdict(list)
    for row in rows:
        cells[row["dataset"], row["category"], row["shots"]].append(row)
    found = {}
    for cell, name in product(cells.values(), metrics):
        means = {row["method"]: row["metrics"][name]["mean"] for row in cell if name in row["metrics"]}
        for row in cell:
            key = (*_key(row), name)
            if row["method"] in means and (won := place(means[row["method"]], [*means.values()], name in costs)):
                found[key] = won
    return found


def _settings(done: Sequence[Result]) -> list[tuple[str, str]]:
    """Every method's own numbers, once per distinct setting."""
    found = {(run.method, json.dumps(run.config.get("model", {}), indent=2, sort_keys=True)): None for run in done}
    return sorted(found)


def _versions(done: Sequence[Result]) -> list[tuple[str, str]]:
    """What the runs were made with; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in done:
        commit = f"{run.git['commit']}{' with changes' if run.git['dirty'] else ''}" if run.git else "unknown"
        for name, value in {**run.versions, "code": commit, "device": run.device or "unknown"}.items():
            found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


def _support(done: Sequence[Result]) -> list[tuple[str, str, int, int, str]]:
    """Dataset, category, shots, seed and hash of every support list."""
    return sorted({(r.dataset, r.category, r.shots, r.seed, r.support["sha256"][:16]) for r in done})


def _heading(name: str) -> Markup:
    """A long name may go on in the next line after its last underscore."""
    head, underscore, tail = name.rpartition("_") if len(name) > 8 else ("", "", name)
    return Markup("{}{}<wbr>{}").format(head, underscore, tail)


def _text(name: str) -> Markup:
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704
