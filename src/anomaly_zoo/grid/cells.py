"""A cell is one run of the grid: method x dataset x category x shots x seed x backbone. Needs no torch.

Its place in the store says which run it is, its identity what decides its numbers: a stored result with another one was
made with other settings or images, and is never taken for finished.
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from anomaly_zoo.files import write_whole
from anomaly_zoo.results import Result, conflicting_keys, result_path
from anomaly_zoo.yaml_files import BASE, find_method, name_in_results

Config = dict[str, Any]
Fingerprint = Callable[[str], str]

# Where the files lie, how fast they are read, and what is shown meanwhile.
_CANNOT_CHANGE_A_SCORE = {
    "data": {"root", "num_workers", "test_batch_size"},
    "backbone": {"weights"},  # its content counts instead, like that of the images
    "trainer": {"enable_progress_bar", "enable_model_summary", "logger", "log_every_n_steps", "default_root_dir"},
}


@dataclass(frozen=True)
class Cell:
    """One run of the grid; `resolved` is the file that may keep its configuration for the next bench."""

    method: str
    config: Config
    store: Path
    identity: str
    resolved: Path | None = field(default=None, compare=False)

    @property
    def path(self) -> Path:
        """Where its result lies."""
        data, seed = self.config["data"], self.config["seed_everything"]
        return result_path(self.store, data["dataset"], data["category"], self.method, data["shots"], seed)

    @property
    def folder(self) -> Path:
        """Where all else lies that it writes."""
        return self.path.with_suffix("")

    @property
    def log_path(self) -> Path:
        """What it says while it runs in a process of its own, and its traceback when it fails."""
        return self.folder / "log.txt"

    @property
    def name(self) -> str:
        """Says which run it is, in one line."""
        data = self.config["data"]
        return f"{self.method} {data['category']} shots={data['shots']} seed={self.config['seed_everything']}"


def _images_fingerprint(folder: str) -> str:
    """Names and sizes of all files of a category; not their bytes, which would take as long as running it."""
    files = []
    for part in ("train", "test", "ground_truth"):
        for parent, _, names in os.walk(Path(folder, part), followlinks=True):
            paths = (Path(parent, name) for name in names if not name.startswith("."))
            files += [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    return sha256(sorted(files))


def _weights_fingerprint(weights: str) -> str:
    """The content of a file; `auto` and `none` stand for themselves."""
    file = Path(weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else weights


def grid(
    method: str, roots: dict[str, Path], categories: Sequence[str], shots: Sequence[int], seeds: Sequence[int],
    options: Sequence[str], store: Path,
) -> list[Cell]:  # fmt: skip
    """All cells of one method (a name, `name:variant` or a YAML file), by dataset, category, shots and seed.

    Categories are folders, or "all"; options such as `--data.image_size=128` are what all cells share.
    """
    name = name_in_results(method)
    cells: list[Cell] = []
    images, weights = cache(_images_fingerprint), cache(_weights_fingerprint)
    for dataset, root in roots.items():
        chosen = _categories(root, categories, alone=len(roots) == 1)
        if not chosen:
            continue
        where = [f"--data.root={root}", f"--data.dataset={dataset}", f"--data.category={chosen[0]}"]
        base, resolved = _resolve(method, [*where, *options, "--trainer.enable_progress_bar=false"], store)
        for category, k, seed in product(chosen, dict.fromkeys(shots), dict.fromkeys(seeds)):
            config = copy.deepcopy(base)
            config["seed_everything"] = seed
            config["data"] |= {"category": category, "shots": k}
            cells.append(Cell(name, config, store, identity(name, config, images, weights), resolved))
    if not cells:
        wanted, searched = " or ".join(map(repr, categories)), ", ".join(map(str, roots.values()))
        raise FileNotFoundError(f"no category {wanted} in {searched}.")
    return cells


def identity(
    method: str, config: Config, images: Fingerprint = _images_fingerprint, weights: Fingerprint = _weights_fingerprint
) -> str:
    """Hashes what decides the numbers of a run, but for libraries and device: configuration, images, weights."""
    category = str(Path(config["data"]["root"], config["data"]["category"]))
    files = {"images": images(category), "weights": weights(str(config["backbone"]["weights"]))}
    return sha256({"method": method, "config": _deciding(config), **files})


def conflicts(result: Result, cell: Cell) -> list[str]:
    """What a stored result of the same run was made with that this cell is not; empty if it finishes the cell."""
    if result.cell == cell.identity:
        return []
    keys = conflicting_keys(_deciding(result.config), _deciding(cell.config))
    if result.cell:
        return keys or ["the images or the weights"]
    weights = [config.get("backbone", {}).get("weights") for config in (result.config, cell.config)]
    return keys + ["backbone.weights"] * (weights[0] != weights[1])  # those of other tools have no identity


def remember(cells: Sequence[Cell]) -> None:
    """Keeps resolved configurations in the store: the next bench with the same request need not import torch."""
    for file, config in {cell.resolved: cell.config for cell in cells}.items():
        if file:
            with suppress(OSError):  # it only saves time
                write_whole(file, json.dumps({"config": config, "sha256": sha256(config)}).encode())


def _resolve(method: str, options: list[str], store: Path) -> tuple[Config, Path | None]:
    """A resolved configuration whose category, shots and seed are still to be set, and the file that may keep it."""
    file = _resolved_file(method, options, store)
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_bytes()) if file else {}
        if kept and kept["sha256"] == sha256(kept["config"]):
            return kept["config"], file
    from anomaly_zoo.config import resolve  # imports torch

    return resolve(method, options), file


def _resolved_file(method: str, options: list[str], store: Path) -> Path | None:
    """Named by all that a resolved configuration follows from; None for a method outside this package."""
    file, overrides = find_method(method)
    text = file.read_text()
    with suppress(yaml.YAMLError, KeyError, TypeError):
        if yaml.safe_load(text)["model"]["class_path"].startswith("anomaly_zoo."):
            code = [version_of(path) for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
            versions = [metadata.version(name) for name in ("jsonargparse", "lightning", "timm", "torch")]
            key = sha256([text, overrides, BASE.read_text(), options, code, versions])
            return store / ".resolved" / f"{key[:32]}.json"
    return None


def _categories(root: Path, wanted: Sequence[str], alone: bool) -> list[str]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder. Pass --root (make: ROOT=) with a folder in the MVTec layout.")
    found = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    if list(wanted) != ["all"]:
        return list(wanted) if alone else [name for name in wanted if name in found]
    if not found:
        hint = f" It is one itself: pass its parent, {root.resolve().parent}." if (root / "train").is_dir() else ""
        raise FileNotFoundError(f"{root} holds no category, which is a folder with train/good in it.{hint}")
    return found


def _deciding(config: Config) -> Config:
    return {
        part: {key: value for key, value in values.items() if key not in _CANNOT_CHANGE_A_SCORE.get(part, ())}
        if isinstance(values, dict)
        else values
        for part, values in config.items()
    }


def version_of(path: Path) -> tuple[str, int, int, int] | None:
    """Tells one version of a file from another without reading it; None if it is not there."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return str(path.resolve()), about.st_ino, about.st_size, about.st_mtime_ns


def sha256(value: Any) -> str:
    """The hash of a nested value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
