"""The results store: one JSON file per run, whole or not there at all. Needs no torch.

A run is dataset x category x method x shots x seed, and its file is
`<store>/<dataset>/<category>/<method>/shots=8/seed=0.json` (see `result_path`). What else a run writes (tracking,
logs) lies beside it in the folder `seed=0/`, which readers never open.
"""

import gc
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from anomaly_zoo.record import SCHEMA_VERSION, ImageScore, Result, Support, result_path

__all__ = [
    "SCHEMA_VERSION",
    "ImageScore",
    "Result",
    "Support",
    "conflicting_keys",
    "load",
    "load_all",
    "protocol",
    "result_path",
    "save",
    "unwritable",
    "write_whole",
]

_PATTERN = "*/*/*/shots=*/seed=*.json"
_REPAIR = "delete the file and run it again, or restore it from a copy"
# Tools outside that write this layout may leave these out.
_OPTIONAL = frozenset({"per_defect", "undefined", "training", "started", "git", "device", "cell"})
# They say which run it is, where its files lie or how fast they are read; none of them can change what a score means.
_NOT_PROTOCOL = frozenset(
    {"root", "dataset", "category", "shots", "seed", "num_workers", "test_batch_size", "cache_mib"}
)
# Data options that change nothing while they have this value: results from before they existed share a table.
_SWITCHED_OFF = {"tile_px": None, "overlap_px": 0}


def save(result: Result, store: Path) -> Path:
    """Writes `result` into `store`, replacing an earlier result of the same run, and returns the file.

    Whenever the process or the machine stops, the file is the earlier one or the new one, never a part of either. A
    killed writer may leave a hidden `.tmp` file behind, which no reader opens.

    Raises:
        ValueError: if a field holds what JSON cannot (NaN, infinity, an object) or what `load` would refuse.
    """
    path = result.path_in(store)
    record = {part.name: getattr(result, part.name) for part in fields(result)}
    problem = next(unwritable(record), None) or _contradiction(result)
    try:
        msgspec.convert(record, Result)
    except msgspec.ValidationError as error:
        problem = problem or str(error)
    if problem:
        raise ValueError(f"cannot save {path}: {problem}; the reason for a metric without a value goes into undefined")
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_whole(path, text.encode())
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is the earlier one or the new one, whenever the machine stops; makes its folder.

    Raises:
        OSError: with the name of the file, if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # the new name survives a power cut too, where the system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: Path) -> Result:
    """Reads one result file. Fields that this version does not know are left out.

    Raises:
        ValueError: if the file is damaged, lacks a field, has one of the wrong type, or comes from a newer version.
    """
    content = path.read_bytes()
    try:
        stored = _DECODER.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_why_unreadable(path, content, error)) from error
    if stored.schema > SCHEMA_VERSION:
        raise ValueError(_newer(path, stored.schema))
    result = Result(**{name: getattr(stored, name) for name in _NAMES})
    if problem := _contradiction(result):
        raise ValueError(f"{path}: {problem}: {_REPAIR}")
    return result


def _why_unreadable(path: Path, content: bytes, error: Exception) -> str:
    """Looks again at what could not be decoded: a newer layout and a field that is not there have their own words."""
    try:
        record = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        schema = msgspec.json.decode(record.get("schema", b"null"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as other:
        return _damaged(path, other)
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        return _newer(path, schema)
    if missing := _REQUIRED - record.keys():
        return f"{path}: it lacks {', '.join(sorted(missing))}: {_REPAIR}"
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> str:
    whole = isinstance(error, msgspec.ValidationError)
    return f"{path}: {error}: {_REPAIR}" if whole else f"{path} is not whole JSON ({error}): {_REPAIR}"


def _newer(path: Path, schema: int) -> str:
    return f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}: upgrade anomaly_zoo"


def load_all(store: Path) -> list[Result]:
    """Every result in `store`, ordered by dataset, category, method, shots and seed; none if there is no such folder.

    Raises:
        ValueError: if a file is damaged (see `load`) or lies where another run's result belongs, so that it would count
            twice or for the wrong run.
    """
    results = []
    with _uncollected():
        for path in store.glob(_PATTERN):
            result = load(path)
            place = result.path_in(store)
            if path != place:
                raise ValueError(f"{path} holds the run that belongs in {place}: move or delete it")
            results.append(result)
    return sorted(results, key=attrgetter("dataset", "category", "method", "shots", "seed"))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Lets the garbage collector rest: it would search millions of new objects again and again, and free none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def protocol(result: Result) -> dict[str, Any]:
    """The part of a result's configuration that must be equal for all rows of one table.

    That is the backbone, the data options that can change a score, and the numeric precision, but nothing that belongs
    to the method.
    """
    config = {part: result.config.get(part, {}) for part in ("backbone", "data", "trainer")}
    data = {
        name: value
        for name, value in config["data"].items()
        if name not in _NOT_PROTOCOL and (name not in _SWITCHED_OFF or value != _SWITCHED_OFF[name])
    }
    trainer = {name: value for name, value in config["trainer"].items() if name == "precision"}
    return {"backbone": config["backbone"], "data": data, "trainer": trainer}


def conflicting_keys(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Dotted keys in which two nested configurations differ, sorted; a key that only one of them has differs too.

    >>> conflicting_keys({"data": {"views": 2}, "seed": 0}, {"data": {"views": 3}, "seed": 0})
    ['data.views']
    """
    a, b = (json.loads(json.dumps(config, default=str)) for config in (a, b))  # as they are read back: no tuples
    keys = []
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key, MISSING), b.get(key, MISSING)
        if isinstance(left, dict) and isinstance(right, dict):
            keys += [f"{key}.{inner}" for inner in conflicting_keys(left, right)]
        elif left != right:
            keys.append(key)
    return keys


_NAMES = [part.name for part in fields(Result)]
_REQUIRED = set(_NAMES) - _OPTIONAL


def _decoder() -> msgspec.json.Decoder[Any]:
    """Reads the fields of `Result`, of which those that may not be missing in a file have no default here."""
    types = get_type_hints(Result)
    optional = [(part.name, types[part.name], _default(part)) for part in fields(Result) if part.name in _OPTIONAL]
    stored = msgspec.defstruct("Stored", [*((name, types[name]) for name in sorted(_REQUIRED)), *optional], gc=False)
    return msgspec.json.Decoder(stored)


def _default(part: Field[Any]) -> Any:
    return part.default if part.default_factory is MISSING else msgspec.field(default_factory=part.default_factory)


_DECODER = _decoder()


def _contradiction(result: Result) -> str | None:
    """What two fields say against each other, None if nothing."""
    if (result.status == "failed") != (result.error is not None):
        return f"a run has an error exactly if it failed: status={result.status!r}, error={result.error!r}"
    return None


def unwritable(value: Any, name: str = "") -> Iterator[str]:
    """Says of everything inside `value` that JSON cannot hold where it is and what it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from unwritable(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from unwritable(item, f"{name}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {float(value)}, which is not finite"
    elif not isinstance(value, (str, int, float, type(None))):
        yield f"{name} is a {type(value).__name__}, which JSON cannot hold"
