"""A cell is one run of the grid: method x dataset x category x shots x seed x backbone. Needs no torch.

Its place in the store says which run it is; its identity, a hash, says what decides its numbers. A stored result with
another identity was made with other settings or other images, and is never taken for a finished one.
"""

import copy
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from anomaly_zoo.results import Result, conflicting_keys, result_path
from anomaly_zoo.yaml_files import BASE, find_method, name_in_results

Config = dict[str, Any]

# Where the files lie, how fast they are read, and what is shown meanwhile: none of it can change a score.
_FREE = {
    "data": {"root", "num_workers", "test_batch_size"},
    "backbone": {"weights"},  # its content counts instead, like that of the images
    "trainer": {"enable_progress_bar", "enable_model_summary", "logger", "log_every_n_steps", "default_root_dir"},
}


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        method: the method's name in the results.
        config: the resolved configuration.
        store: the results store.
        identity: see `identity`.
    """

    method: str
    config: Config
    store: Path
    identity: str

    @property
    def path(self) -> Path:
        """Where its result lies."""
        data = self.config["data"]
        seed = self.config["seed_everything"]
        return result_path(self.store, data["dataset"], data["category"], self.method, data["shots"], seed)

    @property
    def log_path(self) -> Path:
        """What it says while it runs in a process of its own, and its traceback when it fails."""
        return self.path.with_suffix("") / "log.txt"

    @property
    def name(self) -> str:
        """Says which run it is, in one line."""
        data = self.config["data"]
        return f"{self.method} {data['category']} shots={data['shots']} seed={self.config['seed_everything']}"


def identity(method: str, config: Config, fingerprints: dict[Any, str] | None = None) -> str:
    """Hashes everything that decides the numbers of a run.

    That is the configuration, except for keys such as `data.root` that only say where files lie or how fast they are
    read; the names and sizes of the category's files; and the content of a weight file. Not part of it: the versions of
    libraries and the device, which every result records.

    Args:
        method: the method's name.
        config: the resolved configuration.
        fingerprints: those of images and weights that are known already; filled. None to look at the files again.

    Returns:
        SHA-256, in hexadecimal.
    """
    known = {} if fingerprints is None else fingerprints
    root, category = Path(config["data"]["root"]), config["data"]["category"]
    weights = str(config["backbone"]["weights"])
    if (root, category) not in known:
        known[root, category] = _images_fingerprint(root / category)
    if weights not in known:
        known[weights] = _weights_fingerprint(weights)
    decides = {
        "method": method,
        "config": _deciding(config),
        "images": known[root, category],
        "weights": known[weights],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def conflicts(result: Result, cell: Cell) -> list[str]:
    """What a stored result of the same run was made with that this cell is not; empty if it finishes the cell."""
    if result.cell == cell.identity:
        return []
    keys = conflicting_keys(_deciding(result.config), _deciding(cell.config))
    if not result.cell:  # those of other tools have no identity
        weights = [config.get("backbone", {}).get("weights") for config in (result.config, cell.config)]
        return keys + ["backbone.weights"] * (weights[0] != weights[1])
    if keys:
        return keys
    return ["the images or the weights"]


def grid(
    method: str, roots: dict[str, Path], categories: Sequence[str], shots: Sequence[int], seeds: Sequence[int],
    options: Sequence[str], store: Path,
) -> tuple[list[Cell], dict[Path, Config]]:  # fmt: skip
    """All cells of one method, in the order dataset, category, shots, seed.

    Args:
        method: a name in configs/methods, a variant such as `coft:no_np`, or the path of a YAML file.
        roots: the folder of every dataset, by its name.
        categories: folder names, or "all".
        shots: numbers of support images.
        seeds: seeds of the support.
        options: what all share, as options of the command line, such as `--data.image_size=128`.
        store: the results store.

    Returns:
        The cells, and what `remember` keeps so that the next call is quick.

    Raises:
        FileNotFoundError: a root is missing or holds no category.
        ValueError: the method or an option is wrong.
    """
    name = name_in_results(method)
    cells: list[Cell] = []
    resolved: dict[Path, Config] = {}
    fingerprints: dict[Any, str] = {}
    for dataset, root in roots.items():
        chosen = _categories(root, categories, alone=len(roots) == 1)
        if not chosen:
            continue
        where = [f"--data.root={root}", f"--data.dataset={dataset}", f"--data.category={chosen[0]}"]
        file, base = _resolve(method, [*where, *options, "--trainer.enable_progress_bar=false"], store)
        resolved |= {file: base} if file else {}
        for category in chosen:
            for k in dict.fromkeys(shots):
                for seed in dict.fromkeys(seeds):
                    config = copy.deepcopy(base)
                    config["seed_everything"] = seed
                    config["data"] |= {"category": category, "shots": k}
                    cells.append(Cell(name, config, store, identity(name, config, fingerprints)))
    if not cells:
        raise FileNotFoundError(
            f"no category {' or '.join(map(repr, categories))} in {', '.join(map(str, roots.values()))}."
        )
    return cells, resolved


def remember(resolved: dict[Path, Config]) -> None:
    """Keeps resolved configurations in the store: the next bench with the same request need not import torch."""
    for file, config in resolved.items():
        with suppress(OSError):  # it only saves time
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
            temporary.write_text(json.dumps({"config": config, "sha256": _sha256(config)}))
            temporary.replace(file)


def _resolve(method: str, options: list[str], store: Path) -> tuple[Path | None, Config]:
    """The resolved configuration, and the file to remember it in; None if it is there or cannot be told stale."""
    file = _memory_file(method, options, store)
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(file.read_bytes()) if file else {}
        if kept and kept["sha256"] == _sha256(kept["config"]):
            return None, kept["config"]
    from anomaly_zoo.config import resolve  # imports torch

    return file, resolve(method, options)


def _memory_file(method: str, options: list[str], store: Path) -> Path | None:
    """Named by all that a resolved configuration follows from; None for a method outside this package."""
    file, overrides = find_method(method)
    text = file.read_text()
    with suppress(yaml.YAMLError, KeyError, TypeError):
        if yaml.safe_load(text)["model"]["class_path"].startswith("anomaly_zoo."):
            sources = [(str(path), *_stamp(path)) for path in sorted(Path(__file__).parents[1].rglob("*.py"))]
            versions = [metadata.version(name) for name in ("jsonargparse", "lightning", "timm", "torch")]
            key = [text, overrides, BASE.read_text(), options, sources, versions]
            return store / ".resolved" / f"{_sha256(key)[:32]}.json"
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
        part: {key: value for key, value in values.items() if key not in _FREE.get(part, ())}
        if isinstance(values, dict)
        else values
        for part, values in config.items()
    }


def _images_fingerprint(folder: Path) -> str:
    """Names and sizes of all files of a category; not their bytes, which would take as long as running it."""
    files = []
    for part in ("train", "test", "ground_truth"):
        for parent, _, names in os.walk(folder / part, followlinks=True):
            paths = (Path(parent, name) for name in names if not name.startswith("."))
            files += [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    return _sha256(sorted(files))


def _weights_fingerprint(weights: str) -> str:
    """The content of a file; `auto` and `none` stand for themselves."""
    if not Path(weights).is_file():
        return weights
    with Path(weights).open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
