"""The table that all else is made from: one row per run. Runs of different protocols never share a row of a summary."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from anomaly_zoo.measures import BASELINE
from anomaly_zoo.results import Result, conflicting_keys

# What says which group of a comparison a row belongs to. An average over categories and a single defect are groups too.
KEYS = ["protocol", "dataset", "shots", "category", "defect", "num_categories", "method"]
COUNTS = ["n", "failed", "trained", "kept_step_0"]
COLUMNS = [*KEYS, "seed", *COUNTS, "undefined", "result"]
# They say which run it is, where its files lie or how fast they are read; none of them can change what a score means.
_NOT_PROTOCOL = {"root", "dataset", "category", "shots", "seed", "num_workers", "test_batch_size"}
_NOT_SET = "not set"
# Data options that change nothing while they have this value: results from before they existed share a table.
_SWITCHED_OFF = {"tile_px": None, "overlap_px": 0}


class Protocol(dict[str, Any]):
    """What all runs of a table share, as nested values in a fixed order; can be a key, so it is never changed."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(json.loads(json.dumps(content, sort_keys=True)))
        self.text = _text(self)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.text)

    def __lt__(self, other: "Protocol") -> bool:
        return self.text < other.text


def _text(protocol: dict[str, Any]) -> str:
    """Equal where results may share a table; `cache_mib` is an option of earlier versions, which changed no score."""
    data = {name: value for name, value in protocol["data"].items() if name != "cache_mib"}
    return json.dumps({**protocol, "data": data}, sort_keys=True)


def frame(results: Sequence[Result], baseline: str = BASELINE) -> pd.DataFrame:
    """One row per run, those of the baseline first: the columns `COLUMNS`, then one for every score and cost.

    The protocol's `support` is `shared`, or the start of the support list's hash where it is not that of the baseline
    (without it: the first method) with the same seed.
    """
    supports: dict[tuple[str, str, int, int], str] = {}
    protocols: dict[str, Protocol] = {}
    rows = []
    for result in sorted(results, key=lambda result: (result.method != baseline, result.method)):
        ok, sha256 = result.status == "ok", result.support["sha256"]
        draw = (result.dataset, result.category, result.shots, result.seed)
        shared = not ok or supports.setdefault(draw, sha256) == sha256
        content = {**protocol(result), "support": "shared" if shared else sha256[:12]}
        own = protocols.get(text := _text(content)) or protocols.setdefault(text, Protocol(content))  # equal: the same
        trained = result.training.get("steps", 0) > 0
        counts = (ok, not ok, trained, trained and result.training.get("kept_step") == 0)
        key = (own, result.dataset, result.shots, result.category, "", 1, result.method)
        run = (*key, result.seed, *map(int, counts), result.undefined, result)
        values = {**result.metrics, **result.timing, **result.resources} if ok else {}
        rows.append({**dict(zip(COLUMNS, run, strict=True)), **values})
    runs: pd.DataFrame = pd.DataFrame(rows, columns=None if rows else COLUMNS)
    for result in runs.loc[runs.duplicated([*KEYS[1:], "seed"]), "result"]:
        name = f"{result.dataset} {result.category} {result.method} shots={result.shots} seed={result.seed}"
        raise ValueError(f"two results are of one run: {name}; delete or move one of them")
    return runs


def measured(runs: pd.DataFrame) -> list[str]:
    """The columns with a score or a cost."""
    return [name for name in runs.columns if name not in COLUMNS]


def protocol(result: Result) -> dict[str, Any]:
    """What must be equal for all rows of a table: backbone, precision, and data options that can change a score."""
    config = {part: result.config.get(part, {}) for part in ("backbone", "data", "trainer")}
    data = {
        name: value
        for name, value in config["data"].items()
        if name not in _NOT_PROTOCOL and (name not in _SWITCHED_OFF or value != _SWITCHED_OFF[name])
    }
    trainer = {name: value for name, value in config["trainer"].items() if name == "precision"}
    return {"backbone": config["backbone"], "data": data, "trainer": trainer}


def protocol_notes(protocols: Iterable[Protocol]) -> dict[Protocol, str]:
    """For every protocol the values of the keys in which they differ; empty if there is one."""
    every = list(dict.fromkeys(protocols))
    differing = sorted({key for other in every for key in conflicting_keys(every[0], other)})
    notes = dict.fromkeys(every, "")
    for place, protocol in enumerate(every if differing else [], start=1):
        values = ", ".join(f"{key} = {_look_up(protocol, key)}" for key in differing)
        notes[protocol] = f"Protocol {place} of {len(every)}, not comparable: {values}"
    return notes


def only_protocol(runs: pd.DataFrame, what: str) -> Protocol:
    """The protocol of all runs; a ValueError with what differs if they have several, which `what` must not mix."""
    notes = protocol_notes(sorted(runs["protocol"].unique()))
    if len(notes) > 1:
        which = "; ".join(note.partition(": ")[2] for note in notes.values())
        said = f"these runs are of {len(notes)} protocols, which must not share {what}: {which}"
        raise ValueError(f"{said}. Choose one with --protocol KEY=VALUE.")
    return next(iter(notes))


def with_protocol(runs: pd.DataFrame, conditions: Iterable[str], baseline: str = BASELINE) -> pd.DataFrame:
    """The table of the runs whose protocol has what each `KEY=VALUE` says; a ValueError where none has."""
    for condition in conditions:
        key, equals, value = condition.partition("=")
        found = {protocol: str(_look_up(protocol, key)) for protocol in runs["protocol"].unique()}
        has = ", ".join(sorted(set(found.values())))
        if not equals or has == _NOT_SET:
            keys = sorted({name for one in found for name in conflicting_keys(one, {part: {} for part in one})})
            raise ValueError(f"--protocol {condition}: write KEY=VALUE, where KEY is one of {', '.join(keys)}")
        if value not in found.values():
            raise ValueError(f"no run with {condition!r}, where {key} is: {has}")
        runs = frame(list(runs.loc[runs["protocol"].map(found) == value, "result"]), baseline)
    return runs


def _look_up(nested: Any, dotted_key: str) -> Any:
    """The value at `a.b.c`; `not set` where there is none."""
    for key in dotted_key.split("."):
        nested = nested.get(key, _NOT_SET) if isinstance(nested, dict) else nested
    return nested
