"""What is in a dataset, and what is wrong with which file: every image is read once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_zoo.data.conversion import subfolders
from anomaly_zoo.data.duplicates import near_duplicates, thumbnail
from anomaly_zoo.data.images import IMAGE_SUFFIXES, image_files, read_image, read_mask
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE, Regions, check_region
from anomaly_zoo.data.transforms import resize_mask
from anomaly_zoo.data.tree import Files

_IMAGE_SIZE = 256  # of the protocol; smaller defects vanish
_MAX_SHOWN = 5


@dataclass
class Report:
    """What was found in one category.

    Attributes:
        category: its name.
        found: what is there, a line each.
        notes: what may be on purpose.
        problems: what must be mended before a run; each names its file.
    """

    category: str
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    """What was noticed while reading."""

    sizes: dict[str, list[Path]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    modes: dict[str, list[Path]] = field(default_factory=dict)
    thumbnails: dict[str, np.ndarray] = field(default_factory=dict)
    vanishing: list[Path] = field(default_factory=list)


def files_of(root: Path) -> Files:
    """The files of a dataset in the MVTec layout, by their places.

    Args:
        root: the dataset.

    Returns:
        Images, masks and regions of all categories; empty if there are none.
    """
    found: dict[str, Path] = {}
    for category in subfolders(root):
        folders = [category / "train" / "good"]
        folders += [sub for split in ("test", "ground_truth") for sub in subfolders(category / split)]
        if not folders[0].is_dir():
            continue
        paths = [path for folder in folders for path in image_files(folder)]
        paths += [category / POLYGON_FILE] if (category / POLYGON_FILE).is_file() else []
        paths += [path for path in sorted((category / MASK_FOLDER).rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    return found


def inspect(files: Files) -> Iterator[Report]:
    """Reads every image and mask of a dataset.

    Args:
        files: the dataset, all of it in files.

    Yields:
        One report per category, sorted by name.
    """
    by_category: dict[str, dict[str, Path]] = {}
    for place, path in files.items():
        assert isinstance(path, Path)
        category, _, inside = place.partition("/")
        by_category.setdefault(category, {})[inside] = path
    for category, part in sorted(by_category.items()):
        yield _inspect_category(category, part)


def _inspect_category(category: str, files: dict[str, Path]) -> Report:
    report, seen = Report(category), _Seen()
    images = {place: path for place, path in files.items() if place.startswith(("train/", "test/"))}
    masks = {place: path for place, path in files.items() if place.startswith("ground_truth/")}
    by_image = {_stem(place).removeprefix("ground_truth/").removesuffix("_mask"): path for place, path in masks.items()}
    _count(report, images, masks, files)
    for place, path in images.items():
        with _noted(report):
            _read(place, path, by_image, bool(masks), report, seen)
    _check_region(report, files, images, seen)
    of_images = {_stem(place).removeprefix("test/") for place in images}
    unused = [path for stem, path in by_image.items() if stem not in of_images]
    report.notes += [f"the mask {path} belongs to no image: is its name right?" for path in unused[:_MAX_SHOWN]]
    if len(unused) > _MAX_SHOWN:
        report.notes.append(f"{len(unused) - _MAX_SHOWN} more masks belong to no image")
    _summarise(report, seen, images)
    return report


@contextmanager
def _noted(report: Report) -> Iterator[None]:
    """Turns what is wrong with a file into a line of the report."""
    try:
        yield
    except (ValueError, OSError) as error:
        report.problems.append(str(error))


def _count(report: Report, images: dict[str, Path], masks: dict[str, Path], files: dict[str, Path]) -> None:
    folders = Counter(place.rpartition("/")[0] for place in images)
    train, normal = folders.pop("train/good", 0), folders.pop("test/good", 0)
    report.found.append(f"{train} normal training images: shots up to {train}")
    report.found.append(f"{normal} normal and {sum(folders.values())} anomalous test images")
    report.found += [f"  {number} {folder.removeprefix('test/')}" for folder, number in sorted(folders.items())]
    report.found.append(f"{len(masks)} masks" if masks else "no masks: image metrics only")
    if any(place.startswith(("region.", "region/")) for place in files):
        report.found.append("a region of interest")
    if not train:
        report.problems.append(f"{report.category} has no normal training images")
    if not folders:
        report.notes.append("no anomalous images: fit, predict and maps work, metrics are undefined")
    elif not normal:
        report.notes.append("no normal test images: image metrics are undefined")


def _read(place: str, path: Path, masks: dict[str, Path], has_masks: bool, report: Report, seen: _Seen) -> None:
    image = read_image(path)
    height, width = image.shape[:2]
    seen.shapes[place] = (height, width)
    seen.sizes.setdefault(f"{width}x{height}", []).append(path)
    seen.modes.setdefault("grey" if (image == image[..., :1]).all() else "colour", []).append(path)
    seen.thumbnails[place] = thumbnail(image)
    defect = place.split("/")[1]
    if not has_masks or defect == "good":
        return
    mask_path = masks.get(_stem(place).removeprefix("test/"))
    if mask_path is None:
        report.problems.append(f"{path} has no mask, though other images of {report.category} have one")
        return
    mask = read_mask(mask_path)
    if mask.shape != image.shape[:2]:
        report.problems.append(
            f"the mask {mask_path} has {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"but its image {path} has {width}x{height}"
        )
    elif not mask.any():
        report.notes.append(f"the mask {mask_path} marks nothing: all pixels of {path.name} will count as normal")
    elif not resize_mask(mask, _IMAGE_SIZE).any():
        seen.vanishing.append(path)


def _check_region(report: Report, files: dict[str, Path], images: dict[str, Path], seen: _Seen) -> None:
    polygons = files.get(POLYGON_FILE)
    masks = {_stem(place).removeprefix(f"{MASK_FOLDER}/"): path for place, path in files.items()
             if place.startswith(f"{MASK_FOLDER}/")}  # fmt: skip
    if polygons is not None:
        with _noted(report):
            Regions(polygons.parent)
    for place, path in images.items() if masks else ():
        mask_path = masks.get(f"{_stem(place)}_mask", masks.get(_stem(place)))
        if mask_path is None:
            report.problems.append(f"{path} has no region, though other images of {report.category} have one")
            continue
        with _noted(report):
            region = read_mask(mask_path)
            check_region(region, mask_path, path, *seen.shapes.get(place, region.shape))


def _summarise(report: Report, seen: _Seen, images: dict[str, Path]) -> None:
    for what, counts in (("sizes", seen.sizes), ("colour modes", seen.modes)):
        (name, paths), *others = sorted(counts.items(), key=lambda item: -len(item[1])) or [("", [])]
        few = len(others) < _MAX_SHOWN  # of many there is none that stands out
        shown = [f"{name} ({len(paths)})"]
        shown += [f"{name} ({len(paths)}{f', as {paths[0]}' if few else ''})" for name, paths in others]
        more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
        if others:
            report.notes.append(f"{len(counts)} {what}: {', '.join(shown[:_MAX_SHOWN])}{more}")
        elif paths:
            report.found.append(f"all images {name}")
    if seen.vanishing:
        names = ", ".join(path.name for path in seen.vanishing[:_MAX_SHOWN])
        number = len(seen.vanishing)
        report.notes.append(
            f"{number} defect{'s vanish' if number > 1 else ' vanishes'} at {_IMAGE_SIZE} px ({names}): "
            "raise image_size and set tile_px"
        )
    train = [place for place in seen.thumbnails if place.startswith("train/")]
    test = [place for place in seen.thumbnails if place.startswith("test/")]
    pairs = near_duplicates([seen.thumbnails[p] for p in train], [seen.thumbnails[p] for p in test])
    for i, j in pairs[:_MAX_SHOWN]:
        report.notes.append(f"{images[train[i]]} and {images[test[j]]} look like one image, in training and test")
    if len(pairs) > _MAX_SHOWN:
        report.notes.append(f"{len(pairs) - _MAX_SHOWN} more pairs look like one image")


def _stem(place: str) -> str:
    """A place without the file's suffix."""
    folder, _, name = place.rpartition("/")
    return f"{folder}/{Path(name).stem}"
