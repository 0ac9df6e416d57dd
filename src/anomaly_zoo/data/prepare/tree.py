"""A dataset in the MVTec layout, written whole or not at all: a killed conversion leaves none that looks finished."""

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES, same_name, subfolders
from anomaly_zoo.data.prepare.download import file_sha256
from anomaly_zoo.data.support import seeded_permutation

_DEPTH = 3  # folders that authors and unpackers wrap around a dataset
FINISHED = "source.json"  # marks a finished conversion; says where the images come from, their licence and number
CHECKSUMS = "checksums.sha256"  # a line for each file, as `sha256sum --check` reads them

# Where an image or mask comes from: a file, or what makes its pixels, uint8 `h w` or RGB `h w 3`
Source = Path | Callable[[], np.ndarray]
# The files of a dataset: place in the tree, such as `screw/test/good/000.png`, to where it comes from
Files = Mapping[str, Source]


def locate(folder: Path, *patterns: str) -> Path:
    """Finds the dataset inside the folders that are wrapped around it, by globs such as `*/train/good`."""
    level = [folder]
    for _ in range(_DEPTH + 1):
        for candidate in level:
            if all(any(candidate.glob(pattern)) for pattern in patterns):
                return candidate
        level = [child for parent in level for child in subfolders(parent)]
    raise FileNotFoundError(f"{folder} does not hold what it should, {' and '.join(patterns)}: is it another dataset?")


def inside(root: Path, name: str) -> Path:
    """The file below `root` that a list of the dataset names: lists come from strangers, as archives do."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise ValueError(f"a list in {root} names {name!r}, which leads out of it: is it the published one?")
    return root / path


def placed(folder: str, images: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Every image with its place in a folder of the tree, such as `screw/train/good`, under its own name."""
    return ((f"{folder}/{path.name}", path) for path in images)


def with_masks(folder: str, pairs: Iterable[tuple[Path, Source]]) -> Iterator[tuple[str, Source]]:
    """Every image and its mask with their places; the folder is that of the images, such as `screw/test/hole`."""
    for image, mask in pairs:
        if isinstance(mask, Path) and not mask.is_file():
            raise FileNotFoundError(f"{image} is anomalous, but its mask {mask} is missing: is the dataset complete?")
        suffix = mask.suffix.lower() if isinstance(mask, Path) else ".png"
        yield f"{folder}/{image.name}", image
        yield f"{folder.replace('/test/', '/ground_truth/', 1)}/{image.stem}_mask{suffix}", mask


def split_normal(
    dataset: str, category: str, images: Sequence[Path], num_train: int | None = None
) -> Iterator[tuple[str, Path]]:
    """Draws normal images for training (by default half of them) and testing; names and their order decide the draw."""
    shuffled = [images[index] for index in seeded_permutation(len(images), dataset, category)]
    half = num_train or max(1, len(images) // 2)
    yield from placed(f"{category}/train/good", shuffled[:half])
    yield from placed(f"{category}/test/good", shuffled[half:])


def is_finished(target: Path, options: Mapping[str, Any]) -> bool:
    """Whether a conversion with these options (keys of `FINISHED`) is there; FileExistsError if something else is."""
    marker = target / FINISHED
    if marker.is_file():
        try:
            about = dict(json.loads(marker.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise FileExistsError(f"{marker} is damaged ({error}): delete {target} and prepare it again") from error
        for name, wanted in json.loads(json.dumps(options)).items():
            found = about.get(name)
            if found != wanted:
                made, asked = (",".join(map(str, v)) if isinstance(v, list) else v for v in (found, wanted))
                raise FileExistsError(f"{target} was made with {name}={made}, not {asked}: delete it or choose another")
        return True
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not a finished conversion: delete it or choose another")
    return False


def write_tree(target: Path, files: Files, about: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Writes a dataset beside `target` and renames it when it is complete and verified.

    Files are hard links where possible, else copies. Several processes may do this at once. `FINISHED` gets `about`,
    the options (see `is_finished`) and the number of files per folder.
    """
    check_places(files)
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        building.mkdir()
        _build(building, files)
        lines = [f"{file_sha256(building / place)}  {place}\n" for place in sorted(files)]
        (building / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
        counts = Counter(str(PurePosixPath(place).parent) for place in files)
        written = {**about, **options, "images": dict(sorted(counts.items()))}
        (building / FINISHED).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        _move(building, target, options)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def damaged_files(target: Path) -> list[str]:
    """Compares a finished conversion with its checksums: one line per file that is missing or has changed."""
    list_file = target / CHECKSUMS
    if not list_file.is_file():
        return []
    problems = []
    for line in list_file.read_text(encoding="utf-8").splitlines():
        expected, _, place = line.partition("  ")
        if not (path := target / place).is_file():
            problems.append(f"{path} is missing, though {CHECKSUMS} lists it")
        elif file_sha256(path) != expected:
            problems.append(f"{path} has changed since the conversion: its SHA-256 is not that in {CHECKSUMS}")
    return problems


def check_places(files: Files) -> None:
    """Refuses a dataset without files, and places that are none for an image, or that look the same."""
    if not files:
        raise ValueError("no images found: is this the folder that the dataset was unpacked into?")
    for place in files:
        path = PurePosixPath(place)
        if path.is_absolute() or ".." in path.parts or path.suffix.lower() not in (*IMAGE_SUFFIXES, ".json"):
            raise ValueError(f"{place!r} is no place for an image in a dataset")
    for problem in same_places(files):
        raise ValueError(problem)


def same_places(files: Files) -> list[str]:
    """Names places of which one would be lost where file names ignore case, or how an umlaut is written."""
    seen: dict[str, str] = {}
    pairs = [(place, seen.setdefault(same_name(place).casefold(), place)) for place in files]
    return [f"{a!r} and {b!r} differ in case only: rename one of their sources" for a, b in pairs if a != b]


def thin_out(files: Files, max_test: int | None) -> Files:
    """Keeps at most `max_test` normal and as many anomalous test images per category, and their masks: a fixed draw."""
    if max_test is None:
        return files
    if max_test < 1:
        raise ValueError(f"max_test is {max_test}: choose 1 or more, or None for every image")
    groups: dict[tuple[str, bool], list[str]] = {}
    for place in sorted(files):
        category, split, *rest = PurePosixPath(place).parts
        if split == "test":
            groups.setdefault((category, rest[0] == "good"), []).append(place)
    dropped: set[tuple[str, ...]] = set()
    for (category, normal), places in groups.items():
        order = seeded_permutation(len(places), "max_test", category, str(normal))
        dropped |= {_image_key(places[index]) for index in order[max_test:]}
    return {place: source for place, source in files.items() if _image_key(place) not in dropped}


def _image_key(place: str) -> tuple[str, ...]:
    """Category, defect and name, the same for a test image, its mask and its region."""
    path = PurePosixPath(place)
    parts = path.parts[:1] + path.parts[2:] if path.parts[1:3] == ("region", "test") else path.parts
    if parts[1] not in ("test", "ground_truth"):
        return path.parts
    stem = path.stem.removesuffix("_mask") if parts[1] == "ground_truth" else path.stem
    return parts[0], *parts[2:-1], stem


def _build(building: Path, files: Files) -> None:
    for place, source in files.items():
        path = building / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            _link_or_copy(source, path)
        else:
            pixels = source()
            flipped = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
            path.write_bytes(cv2.imencode(path.suffix, flipped)[1].tobytes())
    written = sum(path.is_file() for path in building.rglob("*"))
    if written != len(files):
        raise ValueError(f"{building} holds {written} files instead of {len(files)}: is the disk full?")


def _link_or_copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: unpack or install the dataset again")
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _move(building: Path, target: Path, options: Mapping[str, Any]) -> None:
    if target.is_dir() and os.name == "nt" and not any(target.iterdir()):
        target.rmdir()  # Windows renames onto nothing, not even onto an empty folder
    try:
        building.replace(target)
    except OSError:
        if not is_finished(target, options):  # else another process was faster, and made the same
            raise
