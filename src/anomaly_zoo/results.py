"""The results store: one JSON file per run, whole or not there at all. Needs no torch.

A run is dataset x category x method x shots x seed (see `result_path`). What else a run writes (tracking, logs) lies
beside its file in the folder `seed=0/`, which readers never open.
"""

import gc
import json
import lzma
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypedDict

import msgspec

from anomaly_zoo.files import write_whole

SCHEMA_VERSION = 1
_PATTERN = "*/*/*/shots=*/seed=*.json"
_REPAIR = "delete the file and run it again, or restore it from a copy"


class Support(TypedDict):
    """The normal images that a method adapted to: their `paths`, and the `sha256` of that list."""

    paths: list[str]
    sha256: str


class ImageScore(TypedDict):
    """One test image: its `defect` (test sub-folder), whether it is anomalous (`label`), and its image `score`."""

    path: str
    defect: str
    label: bool
    score: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that is known about one run. The field names are the JSON's top-level keys."""

    schema: int = SCHEMA_VERSION  # version of this layout
    dataset: str
    category: str
    method: str  # the stem of its file in configs/methods; a variant of it is `coft:no_np`
    shots: int
    seed: int  # what the support and every random choice follow from
    backbone: str
    status: Literal["ok", "failed"] = "ok"  # after a failure everything measured may be missing
    error: str | None = None  # last words of a failed run, None otherwise
    # Scores over the whole test split, and per defect, each against all normal test images (see `measures`)
    metrics: dict[str, float] = field(default_factory=dict)
    per_defect: dict[str, dict[str, float]] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)  # metrics that cannot be computed here, and the reason
    timing: dict[str, float] = field(default_factory=dict)
    resources: dict[str, int | float] = field(default_factory=dict)
    # `steps` (updates made), `kept_step` (the step whose weights were kept; 0: those before training) and
    # `weights_moved` (how far the fine-tuned network moved, relative to its norm); empty without training
    training: dict[str, float] = field(default_factory=dict)
    device: str = ""
    started: str = ""  # ISO 8601 in UTC
    cell: str = ""  # hash of what decides the numbers (see `grid.cells.identity`); empty if not run by the bench
    git: dict[str, str | bool] | None = None  # `commit`, and `dirty` if files had changed; None outside a repository
    versions: dict[str, str] = field(default_factory=dict)  # of packages
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    support: Support = field(default_factory=lambda: Support(paths=[], sha256=""))
    images: list[ImageScore] = field(default_factory=list)

    def path_in(self, store: Path) -> Path:
        """Where this result lies in `store` (see `result_path`)."""
        return result_path(store, self.dataset, self.category, self.method, self.shots, self.seed)


# Tools outside that write this layout may leave these out.
_OPTIONAL = {"per_defect", "undefined", "training", "started", "git", "device", "cell"}
_REQUIRED = {part.name for part in fields(Result)} - _OPTIONAL
_DECODER = msgspec.json.Decoder(Result)
_OUTLINE = msgspec.json.Decoder(dict[str, msgspec.Raw])


def result_path(store: Path, dataset: str, category: str, method: str, shots: int, seed: int) -> Path:
    """Where the result of a run lies; those of the variant `coft:no_np` in a folder `coft@no_np`, as Windows wants it.

    Raises:
        ValueError: a name is not the name of one folder, or a number is negative.

    >>> result_path(Path("results"), "mvtec", "bottle", "coft", shots=8, seed=0).as_posix()
    'results/mvtec/bottle/coft/shots=8/seed=0.json'
    """
    if "@" in method:
        raise ValueError(f"method {method!r} must not contain '@', which stands for ':' in the names of folders")
    for what, name in {"dataset": dataset, "category": category, "method": method}.items():
        if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise ValueError(f"{what} {name!r} must be the name of one folder: not '.' or '..', without '/' or '\\'")
    if shots < 0 or seed < 0:
        raise ValueError(f"shots and seed must not be negative: shots={shots}, seed={seed}")
    return Path(store, dataset, category, method.replace(":", "@"), f"shots={shots}", f"seed={seed}.json")


def save(result: Result, store: Path) -> Path:
    """Writes `result` into `store` whole or not at all, replacing an earlier result of the same run; returns the file.

    A killed writer may leave a hidden `.tmp` file behind, which no reader opens.

    Raises:
        ValueError: a field holds what JSON cannot (NaN, infinity, an object) or what `load` would refuse.
    """
    path = result.path_in(store)
    content = {part.name: getattr(result, part.name) for part in fields(result)}
    problem = next(unwritable(content), None) or _contradiction(result)
    try:
        msgspec.convert(content, Result)
    except msgspec.ValidationError as error:
        problem = problem or str(error)
    if problem:
        raise ValueError(f"cannot save {path}: {problem}; the reason for a metric without a value goes into undefined")
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return path


def load(path: Path) -> Result:
    """Reads one result file. Fields that this version does not know are left out.

    Raises:
        ValueError: the file is damaged, lacks a field, has one of the wrong type, or comes from a newer version.
    """
    content = path.read_bytes()
    try:
        outline = _OUTLINE.decode(content)
        schema = msgspec.json.decode(outline.get("schema", b"null"))
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA_VERSION}: upgrade anomaly_zoo")
        if lacking := _REQUIRED - outline.keys():
            raise ValueError(f"{path}: it lacks {', '.join(sorted(lacking))}: {_REPAIR}")
        result = _DECODER.decode(content)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}: {_REPAIR}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}): {_REPAIR}") from error
    if problem := _contradiction(result):
        raise ValueError(f"{path}: {problem}: {_REPAIR}")
    return result


def load_all(store: Path) -> list[Result]:
    """Every result in `store`, ordered by dataset, category, method, shots and seed; none if there is no such folder.

    A store may also be a file such as `benchmarks/results/shots8.jsonl.xz`, with one result a line.

    Raises:
        ValueError: a file is damaged (see `load`) or lies where another run's result belongs.
    """
    collecting = gc.isenabled()
    gc.disable()  # it would search millions of new objects again and again, and free none
    try:
        results = _kept(store) if store.is_file() else []
        for path in store.glob(_PATTERN):
            result = load(path)
            place = result.path_in(store)
            if path != place:
                raise ValueError(f"{path} holds the run that belongs in {place}: move or delete it")
            results.append(result)
    finally:
        if collecting:
            gc.enable()
    return sorted(results, key=attrgetter("dataset", "category", "method", "shots", "seed"))


def _kept(file: Path) -> list[Result]:
    try:
        return [_DECODER.decode(line) for line in lzma.decompress(file.read_bytes()).splitlines()]
    except (lzma.LZMAError, msgspec.MsgspecError) as error:
        raise ValueError(f"{file} is neither a results store nor a file of kept results ({error})") from error


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


def _contradiction(result: Result) -> str | None:
    """What two fields say against each other, None if nothing."""
    if (result.status == "failed") != (result.error is not None):
        return f"a run has an error exactly if it failed: status={result.status!r}, error={result.error!r}"
    return None
