"""The comparison as tables: what stands where, before anyone decides how it is drawn (`writers.py`)."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from anomaly_zoo.compare.runs import protocol_notes
from anomaly_zoo.compare.significance import Compared, RankTable
from anomaly_zoo.compare.summary import ALL, AVERAGE, Statistic, Summary
from anomaly_zoo.measures import BASELINE, SHOWN, is_cost

MISSING, UNDEFINED = "—", "n/a"


class Entry(NamedTuple):
    """Text in a table; `place` is 1 for the best of its column and 2 for the second best."""

    text: str
    place: int | None = None
    faint: bool = False  # less important than the rest


@dataclass(frozen=True)
class Table:
    """One table. `note` says what is above it when protocols differ, `below` what to know of its methods."""

    title: str
    columns: list[str]
    rows: list[list[Entry]]
    note: str = ""
    below: list[str] = field(default_factory=list)


def scores(rows: Sequence[Summary], baseline: str = BASELINE, metrics: Sequence[str] = SHOWN) -> Iterator[Table]:
    """A table per protocol, dataset, shots, category and defect: a line per method, and its gain over the baseline."""
    known = {name for row in rows for name in (*row["metrics"], *row["undefined"])}
    metrics = [name for name in metrics if name in known]
    notes = protocol_notes(row["protocol"] for row in rows if row["n"])
    for protocol, note in notes.items():
        same = [row for row in rows if row["protocol"] == protocol]
        methods = sorted({row["method"] for row in same}, key=lambda name: (name != baseline, name))
        for _, group in groupby(same, key=itemgetter("dataset", "shots", "category", "defect")):
            by_method = {row["method"]: row for row in group}
            lines = [line for method in methods for line in _lines(by_method, method, metrics)]
            title, below = _title(next(iter(by_method.values()))), kept_step_0(by_method.values())
            yield Table(title, ["method", "n", *metrics], lines, note, below)
            note = ""  # once, above the first of its tables


def kept_step_0(rows: Iterable[Summary]) -> list[str]:
    """Says in how many runs a method trained, and yet kept the weights from before. A run may be in one row only."""
    kept, trained = Counter[str](), Counter[str]()
    for row in rows:
        kept[row["method"]] += row["kept_step_0"]
        trained[row["method"]] += row["trained"]
    return [f"{method}: kept step 0 in {count} of {trained[method]} runs" for method, count in kept.items() if count]


def evidence(rows: Sequence[Compared], baseline: str = BASELINE) -> Iterator[Table]:
    """A table per protocol, dataset and shots: image AUROC less the baseline's, and how sure that is."""
    groups = defaultdict(list)
    compared = [row for row in rows if "test" in row]
    for row in compared:
        test, where = row["test"], " ".join(filter(None, (row["category"], row["defect"])))
        interval, p_delong = interval_text(test["low"], test["high"]), p_text(test["p_delong"])
        p_holm = Entry(p_text(test["p_holm"]), 1 if test["p_holm"] < 0.05 else None)
        first = map(Entry, (where, row["method"], f"{test['difference']:+.3f}", interval, p_delong))
        groups[row["protocol"], row["dataset"], row["shots"]].append([*first, p_holm, Entry(str(test["images"]))])
    notes = protocol_notes(row["protocol"] for row in compared)
    for (protocol, dataset, shots), lines in groups.items():
        title = f"image AUROC less {baseline}'s · {dataset} · shots={shots}"
        columns = ["category", "method", "difference", "95 % interval", "p", "p (Holm)", "images"]
        yield Table(title, columns, lines, notes[protocol])


def ranks(rankings: Sequence[RankTable], baseline: str = BASELINE) -> Iterator[Table]:
    """A table per protocol, metric and shots: mean ranks over all categories, best first."""
    notes = protocol_notes(table["protocol"] for table in rankings)
    for table in rankings:
        ordered, lines = sorted(table["mean_ranks"].items(), key=itemgetter(1)), []
        for name, mean_rank in ordered:
            p_value = table["wilcoxon_p_holm"].get(name)
            behind = "yes" if mean_rank - ordered[0][1] > table["critical_difference"] else "no"
            wilcoxon = MISSING if p_value is None else p_text(p_value)
            lines.append([Entry(name), Entry(f"{mean_rank:.2f}"), Entry(behind), Entry(wilcoxon)])
        friedman = "" if table["friedman_p"] is None else f" · Friedman p = {p_text(table['friedman_p'])}"
        distance = f"critical difference {table['critical_difference']:.2f}"
        title = f"mean rank of {table['metric']} over {table['num_categories']} categories · shots={table['shots']}"
        columns = ["method", "mean rank", "behind the best", f"p (Wilcoxon, {baseline}, Holm)"]
        yield Table(f"{title}{friedman} · {distance}", columns, lines, notes[table["protocol"]])


def published(datasets: Collection[str]) -> Iterator[Table]:
    """What others published on MVTec AD, if that is among the datasets: percent, means over its 15 categories."""
    if {"mvtec", "mvtec_ad"} & set(datasets):
        title = (
            "PUBLISHED by others on MVTec AD, quoted second hand, not measured here and not comparable with the rows"
        )
        found = pd.read_csv(Path(__file__).with_name("published.csv"), dtype=str).fillna(MISSING)
        rows = [[*map(Entry, row[:-1]), Entry(row[-1], None, True)] for row in found.to_numpy().tolist()]
        yield Table(f"{title} above", list(found.columns), rows)


def legend(runs: pd.DataFrame, baseline: str, metrics: Sequence[str]) -> Iterator[Entry]:
    """What the signs in the tables mean, then the runs that failed (these first-rank)."""
    if runs["n"].any():
        said = "mean ± sample std over n seeds, in () where fewer have a value; best bold, second underlined"
        yield Entry(said, faint=True)
        yield Entry(f"gain: mean difference to {baseline}, seed by seed; costs: means; {MISSING}: no run", faint=True)
    reasons = {reason for undefined in runs["undefined"] for reason in undefined.items() if reason[0] in metrics}
    yield from (Entry(f"{UNDEFINED} {name}: {reason}", faint=True) for name, reason in sorted(reasons))
    failed = [run for run in runs["result"] if run.error is not None]
    if failed:
        yield Entry(f"{len(failed)} of {len(runs)} runs failed:", 1)
    for run in sorted(failed, key=attrgetter("dataset", "category", "method", "shots", "seed")):
        name = f"{run.dataset}/{run.category}/{run.method}/shots={run.shots}/seed={run.seed}"
        last_line = run.error.strip().rpartition("\n")[2]
        yield Entry(f"  {name}: {last_line}")


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
    mean = value["mean"]
    if not cost:
        return f"{mean:.3f}" + (f" ± {value['std']:.3f}" if "std" in value else "")
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(mean) >= size:
            return f"{mean / size:.1f}{unit}"
    return f"{mean:.{0 if mean == int(mean) or mean >= 100 else 1 if mean >= 1 else 3}f}"


def _title(row: Summary) -> str:
    over = f" over the common categories ({row['num_categories']})" if row["category"] == AVERAGE else ""
    parts = [row["dataset"], f"{row['category']}{over}", row["defect"], f"shots={row['shots']}"]
    return " · ".join(filter(None, parts if row["dataset"] != ALL else [ALL, f"average{over}", parts[-1]]))


def _lines(by_method: dict[str, Summary], method: str, metrics: Sequence[str]) -> Iterator[list[Entry]]:
    if method not in by_method:
        yield [Entry(method), Entry("0"), *(Entry(MISSING) for _ in metrics)]
        return
    row = by_method[method]
    values = []
    for name in metrics:
        if found := row["metrics"].get(name):
            text = number(found, is_cost(name)) + _count(found, row)
            values.append(Entry(text, place(row, by_method.values(), name)))
        else:
            values.append(Entry(UNDEFINED if name in row["undefined"] else MISSING))
    yield [Entry(method), Entry(str(row["n"])), *values]
    gain = {name: row["gain"][name] for name in metrics if name in row["gain"] and not is_cost(name)}
    if gain:
        texts = {name: f"{found['mean']:+.3f}{_count(found, row)}" for name, found in gain.items()}
        yield [Entry(text, faint=True) for text in ("  gain", "", *(texts.get(name, "") for name in metrics))]


def _count(value: Statistic, row: Summary) -> str:
    return "" if value["n"] == row["n"] else f" ({value['n']})"


def place(row: Summary, rows: Iterable[Summary], name: str) -> int | None:
    """1 for the best of several rows in a score or cost, 2 for the second; None for the rest, or if all are alike."""
    means = {other["metrics"][name]["mean"] for other in rows if name in other["metrics"]}
    found = sorted(means, reverse=not is_cost(name)).index(row["metrics"][name]["mean"]) + 1
    return found if len(means) > 1 and found <= 2 else None
