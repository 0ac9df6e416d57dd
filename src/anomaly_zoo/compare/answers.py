"""What finished runs say of the claims of the papers, and the table of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import msgspec
import numpy as np
import pandas as pd

from anomaly_zoo.compare import verdicts
from anomaly_zoo.compare.paper_claims import Claim
from anomaly_zoo.compare.runs import only_protocol
from anomaly_zoo.compare.tables import MISSING, Entry, Table, interval_text
from anomaly_zoo.compare.verdicts import Bound, Difference

NOT_MEASURED = "not measured"


class Compared(msgspec.Struct):
    """Two rows of a claim, wherever both have a run with the same seed."""

    row: str
    other: str
    per_seed: dict[str, list[float]]  # the differences in every category
    difference: Difference | None  # None without such runs
    interval: tuple[float, float] | None  # 95 %; None also for one category


class Answer(msgspec.Struct):
    """What the runs say of a claim; with `--format json`, all of it."""

    name: str
    claim: Claim
    comparisons: list[Compared]
    lacking: list[str]  # rows without runs
    verdict: str = NOT_MEASURED
    found_from: float | None = None  # true differences so far beyond the border are found in 80 % of repetitions
    needed_categories: int | None = None  # that would tell, or else ...
    needed_seeds: int | None = None  # ... seeds of these

    @property
    def paper(self) -> str:
        """The part of the name before the dash."""
        return self.name.rpartition("-")[0]

    def shown(self) -> list[Compared]:
        """Every pair; of equal rows, the pair that lies furthest apart."""
        if not self.claim.equal:
            return self.comparisons
        return [max(self.comparisons, key=lambda pair: abs(pair.difference.mean) if pair.difference else -1.0)]

    def bounds(self) -> list[Bound]:
        """What has to hold of the differences, of equal rows in both directions; empty if a pair is not measured."""
        found = [pair.difference for pair in self.comparisons if pair.difference]
        opposite = [replace(difference, mean=-difference.mean) for difference in found if self.claim.equal]
        whole = len(found) == len(self.comparisons)
        return [Bound(difference, self.claim.border) for difference in (*found, *opposite)] if whole else []


def judge(runs: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Answer]:
    """What runs of one protocol and number of shots say of all claims; those of a paper share a correction."""
    done = runs[(runs["n"] == 1) & runs["method"].isin({row for claim in claims.values() for row in claim.rows})]
    if len(done):
        only_protocol(done, "a verdict")
    answers = [_measure(done, name, claim) for name, claim in claims.items()]
    for name in dict.fromkeys(answer.paper for answer in answers):
        family = [answer for answer in answers if answer.paper == name]
        measured = [(answer, bounds) for answer in family if (bounds := answer.bounds())]
        found = verdicts.verdicts([bounds for _, bounds in measured])
        for (answer, bounds), verdict in zip(measured, found, strict=True):
            answer.verdict = "cannot tell" if verdict == "holds" and answer.claim.lacks else verdict
            smallest = max(verdicts.smallest_found(bound.difference, len(measured)) for bound in bounds)
            answer.found_from = smallest if np.isfinite(smallest) else None
            if verdict == "cannot tell":
                answer.needed_categories, answer.needed_seeds = verdicts.needed(bounds, len(measured))
    return answers


def _measure(done: pd.DataFrame, name: str, claim: Claim) -> Answer:
    index = [done["dataset"] + "/" + done["category"], "seed"]
    scores = done.pivot_table(claim.metric, index, "method") if claim.metric in done and len(done) else pd.DataFrame()
    comparisons = []
    for row, other in claim.pairs:
        found = (scores[row] - scores[other]).dropna() if {row, other} <= set(scores) else pd.Series(dtype=float)
        per_seed = {str(key): part.tolist() for key, part in found.groupby(level=0)}
        difference = verdicts.difference([*map(np.array, per_seed.values())]) if per_seed else None
        interval = difference.interval if difference and difference.categories > 1 else None
        comparisons.append(Compared(row, other, per_seed, difference, interval))
    return Answer(name, claim, comparisons, [row for row in claim.rows if row not in scores])


def tables(answers: Sequence[Answer], shots: int) -> Iterator[Table]:
    """A table per paper; below it what each claim says, and what would tell."""
    columns = ["claim", "rows", "n", "difference", "95 % interval", "asked", "found from", "verdict"]
    for _, group in groupby(answers, key=lambda answer: answer.paper):
        here = list(group)
        lines = [line for answer in here for line in _lines(answer)]
        below = [f"{answer.name}: {answer.claim.claim} {what_would_tell(answer)}".strip() for answer in here]
        title = f"claims of {here[0].claim.source.partition(',')[0]} · {shots} shots · image AUROC where none is named"
        yield Table(title, columns, lines, "", below)


def _lines(answer: Answer) -> Iterator[list[Entry]]:
    claim = answer.claim
    asked = f"within {claim.margin:g}" if claim.equal else f"> {claim.border:g}"
    asked = asked if claim.metric == "image_auroc" else f"{claim.metric} {asked}"
    for pair in answer.shown():
        rows = f"{pair.row} - {pair.other}" + (f" (of {len(claim.pairs)} pairs)" if len(claim.equal) > 2 else "")
        found, texts = pair.difference, [MISSING] * 3
        if found:
            interval = interval_text(*pair.interval) if pair.interval else MISSING
            texts = [f"{found.categories} x {found.seeds:.3g}", f"{found.mean:+.3f}", interval]
        ends = [MISSING if answer.found_from is None else f"{answer.found_from:.3f}", answer.verdict]
        texts = [answer.name, rows, *texts, asked, *ends]
        yield [Entry(text, 1 if text == "holds" else None) for text in texts]


def what_would_tell(answer: Answer) -> str:
    """A sentence on a claim that is open."""
    if answer.verdict == NOT_MEASURED:
        what = f"no run of {', '.join(answer.lacking)}" if answer.lacking else "no runs of both rows with the same seed"
        return f"Not measured: {what}."
    if answer.verdict != "cannot tell":
        return ""
    counts = {"categories": answer.needed_categories, "seeds of these": answer.needed_seeds}
    ways = [f"{count} {unit}" for unit, count in counts.items() if count]
    said = f"It would take about {' or '.join(ways)}." if ways else "Not even 1,000 categories would tell."
    return f"{said} Not measured: {answer.claim.lacks}." if answer.claim.lacks else said


def as_rows(answers: Sequence[Answer]) -> list[dict[str, object]]:
    """A flat row for every pair of every claim, at full precision."""
    rows = []
    for answer in answers:
        about = {"claim": answer.name, "text": answer.claim.claim, "metric": answer.claim.metric}
        ends = {"border": answer.claim.border, "found_from": answer.found_from, "verdict": answer.verdict}
        ends |= {"needed_categories": answer.needed_categories, "needed_seeds": answer.needed_seeds}
        for pair in answer.comparisons:
            low, high = pair.interval or (None, None)
            found = msgspec.to_builtins(pair.difference) if pair.difference else {}
            rows.append({**about, "row": pair.row, "other": pair.other, **found, "low": low, "high": high, **ends})
    return rows
