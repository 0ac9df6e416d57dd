"""The comparison as tables: what stands in every cell, before anyone decides how it is drawn.

`blocks` turns rows of `summary.summarise` into tables of marked text, `evidence` and `order` the statistics. The
terminal, Markdown and LaTeX draw them (`writers.py`); JSON and CSV take the numbers instead.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from anomaly_zoo.results import Result, conflicting_keys
from anomaly_zoo.significance import Comparison, RankTable
from anomaly_zoo.summary import ALL, AVERAGE, BASELINE, Statistic, Summary

METRICS = ("image_auroc", "aupro", "adapt_s", "ms_per_image", "peak_rss_mib", "trainable_params")
COSTS = frozenset({"adapt_s", "test_s", "ms_per_image", "peak_rss_mib", "trainable_params", "false_alarm_rate"})
MISSING, UNDEFINED, NOT_SET = "—", "n/a", "not set"


@dataclass(frozen=True)
class Mark:
    """Text in a table; `place` is 1 for the best of its column and 2 for the second best."""

    text: str
    place: int | None = None
    aside: bool = False  # less important than the rest


@dataclass(frozen=True)
class Block:
    """One table. `note` says what is above it when protocols differ, `below` what to know of its methods."""

    title: str
    columns: list[str]
    rows: list[list[Mark]]
    note: str = ""
    below: list[str] = field(default_factory=list)


def blocks(rows: Sequence[Summary], baseline: str = BASELINE, metrics: Sequence[str] = METRICS) -> Iterator[Block]:
    """A table per protocol, dataset, shots, category and defect: a line per method, and its gain over the baseline."""
    known = {name for row in rows for name in (*row["metrics"], *row["undefined"])}
    metrics = [name for name in metrics if name in known]
    costs = costs_of(metrics)
    for protocol, note in _protocols([row for row in rows if row["n"]]):
        same = [row for row in rows if row["protocol"] == protocol]
        methods = sorted({row["method"] for row in same}, key=lambda name: (name != baseline, name))
        for _, group in groupby(same, key=itemgetter("dataset", "shots", "category", "defect")):
            cell = {row["method"]: row for row in group}
            lines = [line for method in methods for line in _lines(cell, method, metrics, costs)]
            title, below = _title(next(iter(cell.values()))), kept_step_0(cell.values())
            yield Block(title, ["method", "n", *metrics], lines, note, below)
            note = ""  # once, above the first of its tables


def kept_step_0(rows: Iterable[Summary]) -> list[str]:
    """Says in how many runs a method trained, and yet kept the weights from before; nothing of methods that never did.

    Args:
        rows: every run may be in one of them only.
    """
    counts: dict[str, list[int]] = {}
    for row in rows:
        count = counts.setdefault(row["method"], [0, 0])
        count[0] += row["kept_step_0"]
        count[1] += row["trained"]
    return [f"{method}: kept step 0 in {kept} of {of} runs" for method, (kept, of) in counts.items() if kept]


def evidence(comparisons: Sequence[Comparison], baseline: str = BASELINE) -> Iterator[Block]:
    """A table per protocol, dataset and shots: image AUROC less the baseline's, and how sure that is."""
    groups = defaultdict(list)
    for row in comparisons:
        groups[json.dumps(row["protocol"]), row["dataset"], row["shots"]].append(row)
    notes = {json.dumps(protocol): note for protocol, note in _protocols(comparisons)}
    for (protocol, dataset, shots), rows in groups.items():
        lines = [
            [
                Mark(" ".join(filter(None, (row["category"], row["defect"])))),
                Mark(row["method"]),
                Mark(f"{row['difference']:+.3f}"),
                Mark(interval_text(row["low"], row["high"])),
                Mark(p_text(row["p_delong"])),
                Mark(p_text(row["p_holm"]), 1 if row["p_holm"] < 0.05 else None),
                Mark(str(row["images"])),
            ]
            for row in rows
        ]
        title = f"image AUROC less {baseline}'s · {dataset} · shots={shots}"
        columns = ["category", "method", "difference", "95 % interval", "p", "p (Holm)", "images"]
        yield Block(title, columns, lines, notes[protocol])


def _protocols(
    rows: Sequence[Summary] | Sequence[Comparison] | Sequence[RankTable],
) -> list[tuple[dict[str, Any], str]]:
    """Every protocol, and what to say of it: nothing if it is the only one, else the keys in which they differ."""
    protocols = list({json.dumps(row["protocol"]): row["protocol"] for row in rows}.values())
    return list(zip(protocols, protocol_notes(protocols), strict=True))


def protocol_notes(protocols: Sequence[dict[str, Any]]) -> list[str]:
    """For every protocol the values of the keys in which they differ; empty texts if there is one protocol."""
    differing = sorted({key for other in protocols for key in conflicting_keys(protocols[0], other)})
    if not differing:
        return [""] * len(protocols)
    return [
        f"Protocol {place} of {len(protocols)}, not comparable: "
        + ", ".join(f"{key} = {look_up(protocol, key)}" for key in differing)
        for place, protocol in enumerate(protocols, start=1)
    ]


def order(rankings: Sequence[RankTable], baseline: str = BASELINE) -> Iterator[Block]:
    """A table per protocol, metric and shots: mean ranks over all cells, best first."""
    notes = {json.dumps(protocol): note for protocol, note in _protocols(rankings)}
    for table in rankings:
        ranks = sorted(table["mean_ranks"].items(), key=itemgetter(1))
        best = ranks[0][1]
        lines = []
        for name, mean_rank in ranks:
            p_value = table["wilcoxon_p_holm"].get(name)
            behind = mean_rank - best > table["critical_difference"]
            wilcoxon = MISSING if p_value is None else p_text(p_value)
            lines.append([Mark(name), Mark(f"{mean_rank:.2f}"), Mark("yes" if behind else "no"), Mark(wilcoxon)])
        friedman = "" if table["friedman_p"] is None else f" · Friedman p = {p_text(table['friedman_p'])}"
        distance = f"critical difference {table['critical_difference']:.2f}"
        title = f"mean rank of {table['metric']} over {table['num_cells']} categories · shots={table['shots']}"
        columns = ["method", "mean rank", "behind the best", f"p (Wilcoxon, {baseline}, Holm)"]
        yield Block(f"{title}{friedman} · {distance}", columns, lines, notes[json.dumps(table["protocol"])])


def notes(results: Sequence[Result], baseline: str, metrics: Sequence[str]) -> Iterator[Mark]:
    """What the signs in the tables mean, then the runs that failed (these first-rank)."""
    if any(result.status == "ok" for result in results):
        yield Mark(
            "mean ± sample std over n seeds, in () where fewer have a value; best bold, second underlined", None, True
        )
        yield Mark(f"gain: mean difference to {baseline}, seed by seed; costs: means; {MISSING}: no run", None, True)
    reasons = {(name, reason) for result in results for name, reason in result.undefined.items() if name in metrics}
    yield from (Mark(f"{UNDEFINED} {name}: {reason}", None, True) for name, reason in sorted(reasons))
    if failed := [result for result in results if result.status == "failed"]:
        yield Mark(f"{len(failed)} of {len(results)} runs failed:", 1)
    for result in failed:
        last_line = (result.error or "").strip().rpartition("\n")[2]
        cell = f"{result.dataset}/{result.category}/{result.method}/shots={result.shots}/seed={result.seed}"
        yield Mark(f"  {cell}: {last_line}")


def costs_of(names: Collection[str]) -> set[str]:
    """Those of the names that are better the lower they are: times, sizes and what their unit gives away as such."""
    return {name for name in names if name in COSTS or name.endswith(("_s", "_ms", "_mib", "_params", "_macs"))}


def look_up(nested: Any, dotted_key: str) -> Any:
    """The value at `a.b.c`; `not set` where there is none."""
    for key in dotted_key.split("."):
        nested = nested.get(key, NOT_SET) if isinstance(nested, dict) else nested
    return nested


def p_text(p_value: float) -> str:
    """A p-value with three decimals, or the bound that it is below.

    >>> p_text(0.0004), p_text(0.04)
    ('< 0.001', '0.040')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def interval_text(low: float, high: float, sign: str = "+") -> str:
    """An interval with three decimals; none where every resample was alike, which says nothing of other images.

    >>> interval_text(-0.01, 0.02), interval_text(1.0, 1.0)
    ('-0.010 to +0.020', '—')
    """
    return f"{low:{sign}.3f} to {high:{sign}.3f}" if high - low > 1e-6 else MISSING


def number(value: Statistic, cost: bool) -> str:
    """Mean and spread of a score with three decimals; the mean of a cost with about three digits and its magnitude.

    >>> number({"mean": 0.5, "std": 0.01, "n": 3}, cost=False), number({"mean": 3_413_024.0, "n": 1}, cost=True)
    ('0.500 ± 0.010', '3.4M')
    """
    if not cost:
        return f"{value['mean']:.3f}" + (f" ± {value['std']:.3f}" if "std" in value else "")
    mean = value["mean"]
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(mean) >= size:
            return f"{mean / size:.1f}{unit}"
    return f"{mean:.{0 if mean == int(mean) or mean >= 100 else 1 if mean >= 1 else 3}f}"


def _title(row: Summary) -> str:
    over = f" over the common categories ({row['num_categories']})" if row["category"] == AVERAGE else ""
    parts = [row["dataset"], f"{row['category']}{over}", row["defect"], f"shots={row['shots']}"]
    return " · ".join(filter(None, parts if row["dataset"] != ALL else [ALL, f"average{over}", parts[-1]]))


def _lines(
    cell: dict[str, Summary], method: str, metrics: Sequence[str], costs: Collection[str]
) -> Iterator[list[Mark]]:
    row = cell.get(method)
    yield [
        Mark(method),
        Mark(str(row["n"]) if row else "0"),
        *(_value(cell, row, name, name in costs) for name in metrics),
    ]
    gain = {name: value for name, value in row["gain"].items() if name not in costs} if row else {}
    if row and gain.keys() & set(metrics):
        shown = []
        for name in metrics:
            n = f" ({gain[name]['n']})" if name in gain and gain[name]["n"] != row["n"] else ""
            shown.append(Mark(f"{gain[name]['mean']:+.3f}{n}" if name in gain else "", None, True))
        yield [Mark("  gain", None, True), Mark("", None, True), *shown]


def _value(cell: dict[str, Summary], row: Summary | None, name: str, cost: bool) -> Mark:
    if row is None or name not in row["metrics"]:
        return Mark(UNDEFINED if row and name in row["undefined"] else MISSING)
    value = row["metrics"][name]
    others = [other["metrics"][name]["mean"] for other in cell.values() if name in other["metrics"]]
    n = "" if value["n"] == row["n"] else f" ({value['n']})"
    return Mark(number(value, cost) + n, place(value["mean"], others, cost))


def place(value: float, values: Sequence[float], cost: bool) -> int | None:
    """1 for the best of several values, 2 for the second best; None for the rest, and where all are alike.

    >>> [place(value, [0.5, 0.9, 0.7], cost=False) for value in (0.5, 0.9, 0.7)], place(1.0, [1.0, 1.0], cost=True)
    ([None, 1, 2], None)
    """
    distinct = sorted(set(values), reverse=not cost)
    found = distinct.index(value) + 1
    return found if len(distinct) > 1 and found <= 2 else None
