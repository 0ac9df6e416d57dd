"""Gathers what the report says and renders it: numbers from the results, pictures from beside them, one template."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from anomaly_zoo import __version__
from anomaly_zoo.compare import answers, tables
from anomaly_zoo.compare.answers import Answer
from anomaly_zoo.compare.paper_claims import read
from anomaly_zoo.compare.report import figures, gallery
from anomaly_zoo.compare.report.figures import Figure, Look
from anomaly_zoo.compare.runs import only_protocol
from anomaly_zoo.compare.significance import Comparison, Level, RankTable, add_tests, levels, rankings
from anomaly_zoo.compare.summary import ALL, AVERAGE, Summary, summarise
from anomaly_zoo.files import write_whole
from anomaly_zoo.measures import BASELINE, LABELS, SHOWN, is_cost
from anomaly_zoo.results import Result

_MAX_TILES = 1100  # about 5 KB each
_MAX_ROWS = 24


def write(runs: pd.DataFrame, file: Path, store: Path, baseline: str = BASELINE) -> None:
    """Writes the report of runs of one protocol; pictures lie in the store, beside the results."""
    done = runs[runs["n"] == 1]
    if done.empty:
        raise ValueError("no run succeeded, so there is nothing to report; `--format table` lists the errors")
    protocol = only_protocol(done, "a report")
    templates = PackageLoader("anomaly_zoo.compare.report")
    strict: Any = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=templates, autoescape=True, **strict)
    environment.filters |= {"number": tables.number, "p": tables.p_text, "heading": _heading}
    content = _content(done, store, baseline)
    page = environment.get_template("page.html.j2").render(
        baseline=baseline,
        num_runs=len(done),
        num_failed=len(runs) - len(done),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        protocol=json.dumps(protocol, indent=2),
        is_cost=is_cost,
        interval=tables.interval_text,
        version=__version__,
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        **content,
    )
    write_whole(file, page.encode())


def _content(done: pd.DataFrame, store: Path, baseline: str) -> dict[str, Any]:
    shots = int(done["shots"].mode().max())  # the number with the most runs; the highest of equals
    looks = figures.looks(list(done["method"].unique()))
    at_shots = done[done["shots"] == shots]
    rows, ranks = add_tests(summarise(done, baseline), done, baseline), rankings(done, baseline)
    pretty = partial(json.dumps, indent=2, sort_keys=True)
    claims = [answer for answer in answers.judge(at_shots, read()) if answer.verdict != answers.NOT_MEASURED]
    beside = defaultdict(list)
    for row in rows:
        beside[row["dataset"], row["category"], row["shots"]].append(row)
    return {
        "methods": [(method, look.colour) for method, look in looks.items()],
        "shots": shots,
        "best_first": _best_first(at_shots, baseline),
        "rows": rows,
        "kept_step_0": tables.kept_step_0(row for row in rows if row["category"] != AVERAGE),
        "metrics": [name for name in SHOWN if any(name in row["metrics"] for row in rows)],
        "place": lambda row, name: tables.place(row, beside[row["dataset"], row["category"], row["shots"]], name),
        "figures": _figures(done, at_shots, ranks, looks),
        "ranks": ranks,
        "categories": _categories(at_shots, store, looks),
        "claims": list(answers.tables(claims, shots)),
        "claim_figures": _claim_figures(claims),
        "published": next(tables.published(done["dataset"]), None),
        "settings": sorted({(run.method, pretty(run.config.get("model", {}))) for run in done["result"]}),
        "versions": _versions(done["result"]),
        "support": sorted({(r.dataset, r.category, r.shots, r.seed, r.support["sha256"][:16]) for r in done["result"]}),
    }


def _best_first(at_shots: pd.DataFrame, baseline: str) -> list[tuple[Level, Comparison | None]]:
    """The level of every method over all categories, and its test there."""
    several = len(at_shots.groupby(["dataset", "category"])) > 1
    overall = add_tests(summarise(at_shots, baseline, "shots"), at_shots, baseline)
    tests = {row["method"]: row["test"] for row in overall if "test" in row and (row["dataset"] == ALL) == several}
    found = [level for level in levels(at_shots) if level.dataset == ALL]
    return [(level, tests.get(level.method)) for level in sorted(found, key=lambda level: -level.mean)]


def _figures(
    done: pd.DataFrame, at_shots: pd.DataFrame, ranks: Sequence[RankTable], looks: dict[str, Look]
) -> list[Figure]:
    """Accuracy against shots, then against costs, then critical-difference diagrams."""
    found: list[Figure] = []
    level, shots = levels(done), int(at_shots["shots"].iloc[0])
    datasets = list(dict.fromkeys(row.dataset for row in level))
    alone = len({row.shots for row in level}) == 1
    draw, against = (figures.at_shots, f"at {shots} shots") if alone else (figures.against_shots, "against shots")
    for dataset in [ALL, *datasets[:-1]] if len(datasets) > 2 else datasets[:1]:
        rows = [row for row in level if row.dataset == dataset]
        count = rows[0].num_categories
        over = "one category" if count == 1 else f"mean over {count} categories"
        caption = f"Image AUROC {against}, {dataset}, {over}. Intervals: 95 %, bootstrap over test images."
        found.append(Figure(draw(rows, looks), caption))
    last = {row["method"]: row for row in summarise(at_shots, by="dataset")}  # the widest average comes last
    where = next(iter(last.values()))["dataset"]
    means = {row.method: row.mean for row in levels(at_shots) if row.dataset == ALL}
    for cost, name in LABELS.items():
        costs = {method: row["metrics"][cost]["mean"] for method, row in last.items() if cost in row["metrics"]}
        points = {method: (mean, means[method]) for method, mean in costs.items() if method in means and mean > 0}
        caption = f"Image AUROC against {name} at {shots} shots, {where}. Nothing on the dotted line is beaten in both."
        found.append(Figure(figures.against_cost(points, name, looks), caption))
    for table in (table for table in ranks if table["shots"] == shots):
        caption = f"Mean ranks of {table['metric']} at {shots} shots over {table['num_categories']} categories"
        more = "methods whose bars overlap do not differ at the 5 % level (Nemenyi)."
        found.append(Figure(figures.mean_ranks(table, looks), f"{caption}: {more}"))
    return found


def _categories(runs: pd.DataFrame, store: Path, looks: dict[str, Look]) -> list[dict[str, Any]]:
    """Every category of these runs, all of which succeeded and have the same number of shots."""
    by_category: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for row in [*summarise(runs), *summarise(runs, by="defect")]:
        by_category[row["dataset"], row["category"]].append(row)
    groups = runs.groupby(["dataset", "category"])
    num_rows = max(4, min(_MAX_ROWS, _MAX_TILES // (len(groups) * (len(looks) + 2))))
    found = []
    for key, here in groups:
        dataset, category = map(str, key)
        first = {run.method: run for run in here.sort_values("seed", ascending=False)["result"]}  # the lowest seed
        pictures = gallery.rows(store, {method: first[method] for method in looks if method in first}, num_rows)
        summaries = by_category[dataset, category]
        whole = sorted((row for row in summaries if not row["defect"]), key=lambda row: [*looks].index(row["method"]))
        aurocs: dict[str, dict[str, str]] = defaultdict(lambda: dict.fromkeys(looks, tables.MISSING))  # by defect
        for row in summaries:
            if row["defect"] and (auroc := row["metrics"].get("image_auroc")):
                aurocs[row["defect"]][row["method"]] = f"{auroc['mean']:.3f}"
        about = {"name": f"{dataset} · {category}", "rows": whole, "defects": aurocs, "gallery": pictures}
        found.append({**about, "has_masks": any(row.truth for row in pictures)})
    return found


def _claim_figures(claims: Iterable[Answer]) -> list[Figure]:
    return [
        Figure(
            figures.claim(pair, [answer.claim.border, *([answer.claim.margin] if answer.claim.equal else [])]),
            f"{answer.name}: {answer.claim.claim} Verdict: {answer.verdict}. Difference in {answer.claim.metric}. "
            "Intervals: 95 %, of a category over its seeds, of the mean over the categories. Dotted: the border.",
        )
        for answer in claims
        for pair in answer.shown()
    ]


def _versions(results: Iterable[Result]) -> list[tuple[str, str]]:
    """What the runs were made with; several values where they differ."""
    found: dict[str, dict[str, None]] = {}
    for run in results:
        commit = f"{run.git['commit']}{' with changes' if run.git['dirty'] else ''}" if run.git else "unknown"
        for name, value in {**run.versions, "code": commit, "device": run.device or "unknown"}.items():
            found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


def _heading(name: str) -> Markup:
    """A long name may go on in the next line after its last underscore."""
    head, underscore, tail = name.rpartition("_") if len(name) > 8 else ("", "", name)
    return Markup("{}{}<wbr>{}").format(head, underscore, tail)
