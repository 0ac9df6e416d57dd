"""What is in a dataset, and what is wrong with which file: every image is read once."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from anomaly_zoo.data.category import Category, at_most, check_mask, files_in, means_normal, some
from anomaly_zoo.data.image_files import is_hidden, subfolders
from anomaly_zoo.data.images import is_nearly_black, read_image, read_mask, read_mask_with_remark
from anomaly_zoo.data.prepare.duplicates import near_copies, thumbnail
from anomaly_zoo.data.prepare.tree import Files
from anomaly_zoo.data.regions import POLYGON_FILE, Regions, check_region
from anomaly_zoo.data.transforms import category_shape, resize_mask

_IMAGE_SIZE, _THREADS = 256, 4  # the former of the protocol; smaller defects vanish
_DARK = "16-bit, but at most {} of 255 when read, so nearly black: multiply the values until white is 65535"
_BLANK = "one colour all over"
_INVERTED = "the mask marks {} % of the image: is it inverted?"
_EMPTY = "the mask marks nothing, so that all pixels count as normal"
_NORMAL = "the mask marks something, but the image counts as normal"
_VANISHING = f"the defect vanishes at {_IMAGE_SIZE} px: raise image_size and set tile_px"


@dataclass
class _Look:
    """What is kept of an image and its mask when they have been read."""

    shape: tuple[int, int]
    is_grey: bool
    thumbnail: Float32[np.ndarray, " d"]
    digest: bytes
    is_dark: bool
    doubts: list[tuple[str, Path, object]]  # which text, about which file, with what in its braces


def categories_in(root: Path) -> list[Path]:
    """The folders in a dataset that are categories."""
    return [folder for folder in subfolders(root) if is_category(folder)]


def is_category(folder: Path) -> bool:
    """Whether a folder is a category in the MVTec layout, be its `good` spelled as it may."""
    return any(means_normal(sub.name) for sub in subfolders(folder / "train"))


def files_of(*categories: Path) -> Files:
    """Images, masks and regions of categories in the MVTec layout, by their places."""
    names = {folder: (folder if folder.name not in ("", "..") else folder.resolve()).name for folder in categories}
    return {f"{names[folder]}/{place}": path for folder in categories for place, path in files_in(folder).items()}


def inspect(files: Files) -> Iterator[Category]:
    """Reads every image and mask of a dataset; yields its categories, by name, with what is found."""
    by_category: dict[str, dict[str, Path]] = {}
    for place, path in files.items():
        assert isinstance(path, Path)
        category, _, inside = place.partition("/")
        by_category.setdefault(category, {})[inside] = path
    for category, part in sorted(by_category.items()):
        yield _Inspection(Category(category, part)).category


class _Inspection:
    """One category, and what is noticed while its files are read."""

    def __init__(self, category: Category) -> None:
        self.category, self.images = category, category.images
        self._count()
        self.looks: dict[str, _Look] = {}
        with ThreadPoolExecutor(_THREADS) as threads:  # decoding lets go of the interpreter
            for place, look in zip(self.images, threads.map(self._look, self.images), strict=True):
                if isinstance(look, _Look):
                    self.looks[place] = look
                else:
                    self.category.problems.append(look)
        self._check_regions()
        self._compare_sizes()
        self._list_doubts()
        self._list_copies()

    def _count(self) -> None:
        """Says what counts as what, and where it lies."""
        report, files = self.category, self.category.files.items()
        starts = ("train/good/", "test/good/", "ground_truth/")
        train, normal, masks = ([path for place, path in files if place.startswith(start)] for start in starts)
        anomalous = [path for place, path in self.images.items() if not place.startswith(starts)]
        report.found += [
            f"{_counted(train, 'normal training images')} (shots up to {len(train)})",
            _counted(normal, "normal test images"),
            _counted(anomalous, "anomalous test images"),
            _counted(masks, "masks") if masks else "no masks: image metrics only",
        ]
        if any(place.startswith(("region.", "region/")) for place in self.category.files):
            report.found.append("a region of interest")
        if not train:
            report.problems.append(f"{report.name} has no normal training images: put them into train/good")
        if not anomalous:
            report.notes.append("no anomalous images: fit, predict and maps work, metrics are undefined")
        elif not normal:
            report.notes.append("no normal test images: image metrics are undefined")

    def _look(self, place: str) -> _Look | str:
        """Reads an image and its mask, or says why that is impossible."""
        path, mask_path = self.images[place], self.category.masks.get(place)
        doubts: list[tuple[str, Path, object]] = []
        try:
            image = read_image(path)
            is_dark = is_nearly_black(path, image)
            doubts += [(_DARK, path, int(image.max()))] if is_dark else []
            doubts += [(_BLANK, path, "")] if image.min() == image.max() else []
            if mask_path is not None:
                doubts += _look_at_mask(mask_path, path, image.shape[:2], place.startswith("test/good/"))
        except (ValueError, OSError) as error:
            return str(error)
        is_grey = all((image[..., 0] == image[..., channel]).all() for channel in (1, 2))
        digest = hashlib.sha1(image.tobytes()).digest()  # noqa: S324 - to find copies
        return _Look(image.shape[:2], is_grey, thumbnail(image), digest, is_dark, doubts)

    def _check_regions(self) -> None:
        polygons = self.category.files.get(POLYGON_FILE)
        problems: dict[str, None] = {}  # in place of a set, in their order
        for place, look in self.looks.items():
            path, mask_path = self.images[place], self.category.regions.get(place)
            try:
                if polygons is not None:
                    Regions(polygons.parent).mask(path, *look.shape)
                elif mask_path is not None:
                    check_region(read_mask(mask_path), mask_path, path, *look.shape)
            except (ValueError, OSError) as error:
                problems[str(error)] = None
        self.category.problems += problems

    def _compare_sizes(self) -> None:
        """Lists sizes and colour modes, the most frequent first."""
        sizes = {place: f"{look.shape[1]}x{look.shape[0]}" for place, look in self.looks.items()}
        modes = {place: "grey" if look.is_grey else "colour" for place, look in self.looks.items()}
        for what, names in (("sizes", sizes), ("colour modes", modes)):
            groups: dict[str, list[Path]] = {}
            for place, name in names.items():
                groups.setdefault(name, []).append(self.images[place])
            ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
            shown = [f"{name} ({len(paths)}, as {paths[0].name})" for name, paths in ordered]
            if len(shown) > 1:
                self.category.notes.append(f"{len(shown)} {what}: {', '.join(at_most(shown, 'more'))}")
            self.category.found += [f"all images {name}" for name in groups] if len(shown) == 1 else []

    def _list_doubts(self) -> None:
        """A note for every kind of doubt, with the files in question."""
        kinds: dict[str, list[tuple[Path, object]]] = {}
        for look in self.looks.values():
            for text, path, value in look.doubts:
                kinds.setdefault(text, []).append((path, value))
        for text, cases in kinds.items():
            self.category.notes.append(f"{some([path for path, _ in cases])}: {text.format(cases[0][1])}")

    def _list_copies(self) -> None:
        """Images that are one, by their pixels or nearly so: a problem where their labels differ."""
        places, looks = list(self.looks), list(self.looks.values())
        is_normal = [place.split("/")[1] == "good" for place in places]
        first: dict[bytes, int] = {}
        problems, notes, in_train = [], [], set()
        for number, look in enumerate(looks):
            other = first.setdefault(look.digest, number)
            if is_normal[other] != is_normal[number]:
                a, b = sorted((other, number), key=lambda n: not is_normal[n])
                both = f"{self.images[places[a]]} is normal and {self.images[places[b]]} anomalous"
                problems.append(f"{both}, but they are one image: remove the one that is wrong")
        for a, b in near_copies([look.thumbnail for look in looks], is_normal):
            pair, splits = (places[a], places[b]), {places[a].split("/")[0], places[b].split("/")[0]}
            where = "in training and test" if len(splits) > 1 else "in the test split"
            labels = "" if is_normal[a] == is_normal[b] else ", one normal and one anomalous"
            if looks[a].is_dark or (labels and looks[a].digest == looks[b].digest):
                continue  # in the dark, all look alike
            if splits == {"train"}:
                in_train |= set(pair)
            else:
                notes.append(f"{self.images[pair[0]]} and {self.images[pair[1]]} look like one image, {where}{labels}")
        self.category.problems += at_most(problems, "more pairs are normal and anomalous at once")
        self.category.notes += at_most(notes, "more pairs look like one image")
        if in_train:
            copies = some([self.images[place] for place in places if place in in_train])
            alike = f"{copies}: look like copies of each other, or one part seen several times"
            self.category.notes.append(f"{alike}; they count as one image, and a threshold from them comes out too low")


def _look_at_mask(
    mask_path: Path, path: Path, shape: tuple[int, int], is_normal: bool
) -> Iterator[tuple[str, Path, object]]:
    mask, remark = read_mask_with_remark(mask_path)
    check_mask(mask, mask_path, path, *shape)
    share = float(mask.mean())
    if remark:
        yield "the mask {}", mask_path, remark
    if is_normal:
        if share:
            yield _NORMAL, mask_path, ""
    elif not share:
        yield _EMPTY, mask_path, ""
    elif share > 0.5:
        yield _INVERTED, mask_path, round(100 * share)
    elif not resize_mask(mask, category_shape([mask.shape], _IMAGE_SIZE)).any():
        yield _VANISHING, path, ""


def ignored(folder: Path) -> list[str]:
    """Hidden files and those of the system, which nobody looks at, in a line; none if there are none."""
    found = []
    for parent, folders, names in os.walk(folder):
        found += [Path(parent, name) for name in (*folders, *names) if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
    return [f"ignored, hidden or of the system: {some(sorted(found))}"] if found else []


def _counted(paths: Sequence[Path], what: str) -> str:
    """How many there are, and where."""
    folders = Counter(path.parent for path in paths)
    if not folders:
        return f"no {what}"
    parent = Path(os.path.commonpath(folders))
    each = [f"{number} {folder.relative_to(parent)}" for folder, number in folders.items()] if len(folders) > 1 else []
    return f"{len(paths)} {what} in {parent}" + (f": {', '.join(each)}" if each else "")
