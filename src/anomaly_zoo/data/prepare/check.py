"""What is in a dataset, and what is wrong with which file: every image is read once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES, image_files, is_image_file, subfolders
from anomaly_zoo.data.images import read_image, read_mask
from anomaly_zoo.data.prepare.duplicates import near_duplicates, thumbnail
from anomaly_zoo.data.prepare.tree import Files
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE, Regions, check_region
from anomaly_zoo.data.transforms import resize_mask

_IMAGE_SIZE = 256  # of the protocol; smaller defects vanish
_MAX_SHOWN = 5
_EXPECTED_SUFFIXES = (*IMAGE_SUFFIXES, ".json", ".txt", ".sha256", ".md", ".csv", ".db")


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


def files_of(root: Path) -> Files:
    """Images, masks and regions of all categories of a dataset in the MVTec layout, by their places."""
    found: dict[str, Path] = {}
    for category in subfolders(root):
        folders = [category / "train" / "good"]
        folders += [sub for split in ("test", "ground_truth") for sub in subfolders(category / split)]
        if not folders[0].is_dir():
            continue
        paths = [path for folder in folders for path in image_files(folder)]
        paths += [category / POLYGON_FILE] if (category / POLYGON_FILE).is_file() else []
        paths += [path for path in sorted((category / MASK_FOLDER).rglob("*")) if is_image_file(path)]
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    return found


def inspect(files: Files) -> Iterator[Report]:
    """Reads every image and mask of a dataset, all of it in files; yields one report per category, sorted by name."""
    by_category: dict[str, dict[str, Path]] = {}
    for place, path in files.items():
        assert isinstance(path, Path)
        category, _, inside = place.partition("/")
        by_category.setdefault(category, {})[inside] = path
    for category, part in sorted(by_category.items()):
        yield _Inspection(category, part).report


class _Inspection:
    """One category: its files by their places, and what was noticed while reading them."""

    def __init__(self, category: str, files: dict[str, Path]) -> None:
        self.report = Report(category)
        self.files = files
        self.images = {place: path for place, path in files.items() if place.startswith(("train/", "test/"))}
        self.masks = {_image_stem(place): path for place, path in files.items() if place.startswith("ground_truth/")}
        self.by_size: dict[str, list[Path]] = {}
        self.by_mode: dict[str, list[Path]] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.thumbnails: dict[str, np.ndarray] = {}
        self.vanishing: list[Path] = []
        self._count()
        for place, path in self.images.items():
            with self._as_problem():
                self._read(place, path)
        self._check_regions()
        self._list_unused_masks()
        self._compare_sizes("sizes", self.by_size)
        self._compare_sizes("colour modes", self.by_mode)
        self._list_vanishing()
        self._list_duplicates()

    @contextmanager
    def _as_problem(self) -> Iterator[None]:
        """Turns what is wrong with a file into a line of the report."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.report.problems.append(str(error))

    def _count(self) -> None:
        report = self.report
        folders = Counter(place.rpartition("/")[0] for place in self.images)
        train, normal = folders.pop("train/good", 0), folders.pop("test/good", 0)
        report.found.append(f"{train} normal training images: shots up to {train}")
        report.found.append(f"{normal} normal and {sum(folders.values())} anomalous test images")
        report.found += [f"  {number} {folder.removeprefix('test/')}" for folder, number in sorted(folders.items())]
        num_masks = sum(place.startswith("ground_truth/") for place in self.files)
        report.found.append(f"{num_masks} masks" if num_masks else "no masks: image metrics only")
        if any(place.startswith(("region.", "region/")) for place in self.files):
            report.found.append("a region of interest")
        if not train:
            report.problems.append(f"{report.category} has no normal training images")
        if not folders:
            report.notes.append("no anomalous images: fit, predict and maps work, metrics are undefined")
        elif not normal:
            report.notes.append("no normal test images: image metrics are undefined")

    def _read(self, place: str, path: Path) -> None:
        image = read_image(path)
        height, width = image.shape[:2]
        self.shapes[place] = (height, width)
        self.by_size.setdefault(f"{width}x{height}", []).append(path)
        self.by_mode.setdefault("grey" if (image == image[..., :1]).all() else "colour", []).append(path)
        self.thumbnails[place] = thumbnail(image)
        if not self.masks or place.split("/")[1] == "good":
            return
        mask_path = self.masks.get(_image_stem(place))
        if mask_path is None:
            raise ValueError(f"{path} has no mask, though other images of {self.report.category} have one")
        mask = read_mask(mask_path)
        if mask.shape != image.shape[:2]:
            shown = f"{mask.shape[1]}x{mask.shape[0]} pixels, but its image {path} has {width}x{height}"
            raise ValueError(f"the mask {mask_path} has {shown}")
        if not mask.any():
            self.report.notes.append(
                f"the mask {mask_path} marks nothing: all pixels of {path.name} will count as normal"
            )
        elif not resize_mask(mask, (_IMAGE_SIZE, _IMAGE_SIZE)).any():
            self.vanishing.append(path)

    def _check_regions(self) -> None:
        if POLYGON_FILE in self.files:
            with self._as_problem():
                Regions(self.files[POLYGON_FILE].parent)
        start = f"{MASK_FOLDER}/"
        masks = {_stem(place).removeprefix(start): p for place, p in self.files.items() if place.startswith(start)}
        for place, path in self.images.items() if masks else ():
            with self._as_problem():
                mask_path = masks.get(f"{_stem(place)}_mask", masks.get(_stem(place)))
                if mask_path is None:
                    raise ValueError(f"{path} has no region, though other images of {self.report.category} have one")
                region = read_mask(mask_path)
                check_region(region, mask_path, path, *self.shapes.get(place, region.shape))

    def _list_unused_masks(self) -> None:
        images = {_image_stem(place) for place in self.images}
        unused = [path for stem, path in self.masks.items() if stem not in images]
        self._note_some([f"the mask {path} belongs to no image: is its name right?" for path in unused],
                        "more masks belong to no image")  # fmt: skip

    def _compare_sizes(self, what: str, counts: dict[str, list[Path]]) -> None:
        """Lists the sizes (or colour modes), the most frequent first, with an example of those that stand out."""
        (name, paths), *others = sorted(counts.items(), key=lambda pair: -len(pair[1])) or [("", [])]
        few = len(others) < _MAX_SHOWN  # of many there is none that stands out
        shown = [f"{name} ({len(paths)})"]
        shown += [f"{name} ({len(paths)}{f', as {paths[0]}' if few else ''})" for name, paths in others]
        more = f" and {len(shown) - _MAX_SHOWN} more" if len(shown) > _MAX_SHOWN else ""
        if others:
            self.report.notes.append(f"{len(counts)} {what}: {', '.join(shown[:_MAX_SHOWN])}{more}")
        elif paths:
            self.report.found.append(f"all images {name}")

    def _list_vanishing(self) -> None:
        if not self.vanishing:
            return
        names, number = ", ".join(path.name for path in self.vanishing[:_MAX_SHOWN]), len(self.vanishing)
        vanish = "defects vanish" if number > 1 else "defect vanishes"
        self.report.notes.append(f"{number} {vanish} at {_IMAGE_SIZE} px ({names}): raise image_size and set tile_px")

    def _list_duplicates(self) -> None:
        train, test = ([p for p in self.thumbnails if p.startswith(split)] for split in ("train/", "test/"))
        pairs = near_duplicates([self.thumbnails[p] for p in train], [self.thumbnails[p] for p in test])
        both = [f"{self.images[train[i]]} and {self.images[test[j]]}" for i, j in pairs]
        self._note_some([f"{pair} look like one image, in training and test" for pair in both],
                        "more pairs look like one image")  # fmt: skip

    def _note_some(self, notes: list[str], more: str) -> None:
        self.report.notes += notes[:_MAX_SHOWN]
        if len(notes) > _MAX_SHOWN:
            self.report.notes.append(f"{len(notes) - _MAX_SHOWN} {more}")


def unread_files(folder: Path, files: Files) -> list[str]:
    """Counts files beside those that are read, hidden ones aside: they may have been meant to be images.

    Returns a sentence for every suffix that is none of an image, and for every folder with images.
    """
    read = {path.absolute() for path in files.values() if isinstance(path, Path)}
    suffixes: Counter[str] = Counter()
    folders: Counter[Path] = Counter()
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        if suffix not in _EXPECTED_SUFFIXES:
            suffixes[suffix or "nothing"] += 1
        elif suffix in IMAGE_SUFFIXES and path.absolute() not in read:
            folders[path.parent] += 1
    return [f"{_files(number)} ending in {suffix}: no images, passed over" for suffix, number in suffixes.items()] + [
        f"{_files(number)} directly in {parent}: passed over, since no images are looked for there"
        for parent, number in folders.items()
    ]


def broken_links(folder: Path) -> list[str]:
    """Names the links that lead nowhere, which would count as no file at all."""
    links = sorted(path for path in folder.rglob("*") if path.is_symlink() and not path.exists())
    return [f"{path} is a link to {path.readlink()}, which is not there" for path in links]


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def _stem(place: str) -> str:
    """A place without the file's suffix."""
    folder, _, name = place.rpartition("/")
    return f"{folder}/{Path(name).stem}"


def _image_stem(place: str) -> str:
    """Defect and name of a test image, the same for its mask."""
    stem = _stem(place).removeprefix("test/")
    return stem.removeprefix("ground_truth/").removesuffix("_mask") if stem.startswith("ground_truth/") else stem
