"""What counts as what in a category in the MVTec layout, and what is wrong or doubtful about it: no pixel is read."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from anomaly_zoo.data.image_files import files_below, image_files, images_below, is_image_file, same_name, subfolders
from anomaly_zoo.data.images import read_header
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE

MAX_SHOWN = 5  # of notes of one kind
_MEAN_NORMAL = {"good", "ok", "okay", "normal", "pass", "passed", "nodefect", "defectfree", "nondefective"}
_ABOUT = (".json", ".txt", ".sha256", ".md", ".csv", ".pdf", ".yaml", ".xml")  # may lie beside the folders of images
_told: set[str] = set()


def means_normal(name: str) -> bool:
    """Whether a folder of this name should hold normal images.

    >>> means_normal("good"), means_normal("OK"), means_normal("Good_2"), means_normal("hole")
    (True, True, True, False)
    """
    return re.sub("[^a-z]", "", name.casefold()) in _MEAN_NORMAL


def name_to_match(path: Path) -> str:
    """The name by which images and masks find each other: without the suffix, in one spelling.

    >>> name_to_match(Path("hole/000_Mask.png"))
    'hole/000_mask'
    """
    name = same_name(path.with_suffix("").as_posix())
    return f"{name[:-5]}_mask" if name.lower().endswith("_mask") else name


def files_in(category: Path) -> dict[str, Path]:
    """Images, masks and regions of a category by their places in it, such as `test/hole/000.png`."""
    folders = [category / "train" / "good"]
    folders += [sub for split in ("test", "ground_truth") for sub in subfolders(category / split)]
    paths = [path for folder in folders for path in image_files(folder)]
    paths += [category / POLYGON_FILE] if (category / POLYGON_FILE).is_file() else []
    paths += images_below(category / MASK_FOLDER)
    return {path.relative_to(category).as_posix(): path for path in paths}


class Category:
    """Images and masks of a category, from its files by their places (see `files_in`; they need not lie there yet)."""

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        self.name = name
        self.files = files
        self.images = {place: path for place, path in files.items() if place.startswith(("train/", "test/"))}
        self.masks: dict[str, Path] = {}  # by the place of the test image
        self.regions: dict[str, Path] = {}  # the foreground masks, by the place of the image
        self.problems: list[str] = []  # what would make results wrong, a line each
        self.notes: list[str] = []  # what may be on purpose
        self.found: list[str] = []  # what `check` adds
        for folder in sorted({place.split("/")[1] for place in self.images} - {"good"}):
            if means_normal(folder):
                path = next(path for place, path in self.images.items() if place.split("/")[1] == folder)
                counts = f"the images in {path.parent} would count as a defect {folder!r}"
                self.problems.append(f"{counts}: move them to good, or rename it")
        self._match_masks()
        self._match_regions()
        self._compare_orientations()

    def _match_masks(self) -> None:
        masks: dict[tuple[str, str], list[Path]] = {}
        for place, path in self.files.items():
            if place.startswith("ground_truth/"):
                masks.setdefault(_key(place), []).append(path)
        used: dict[Path, Path] = {}
        missing = []
        for place, image in self.images.items():
            folder, stem = _key(place)
            found = [*masks.get((folder, f"{stem}_mask"), []), *masks.get((folder, stem), [])]
            if place.startswith("train/") or not found:
                missing += [] if folder == "good" else [image]
                continue
            self.masks[place] = found[0]
            if len(found) > 1:
                self.problems.append(f"{image} has two masks, {found[0]} and {found[1]}: remove one of them")
            for mask in found:
                if mask in used:
                    self.problems.append(f"{used[mask]} and {image} would share the mask {mask}: rename one of them")
                used[mask] = image
        if masks:
            text = "{} has no mask, though other images of {} have one: add {}_mask.png beside the others "
            text += "(or move all masks away to score images only)"
            self.problems += [text.format(image, self.name, image.stem) for image in missing]
        unused = [path for paths in masks.values() for path in paths if path not in used]
        lines = [f"the mask {path} belongs to no image: is its name right?" for path in unused]
        self.notes += at_most(lines, "more masks belong to no image")

    def _match_regions(self) -> None:
        start, files = f"{MASK_FOLDER}/", self.files.items()
        regions = {name_to_match(Path(place)).removeprefix(start): p for place, p in files if place.startswith(start)}
        used: dict[Path, Path] = {}
        for place, image in self.images.items() if regions else ():
            name = name_to_match(Path(place))
            found = regions.get(f"{name}_mask", regions.get(name))
            if found in used:
                self.problems.append(f"{used[found]} and {image} would share the region {found}: rename one of them")
            elif found is not None:
                self.regions[place], used[found] = found, image
            else:
                others = f"though other images of {self.name} have one: add {image.stem}.png beside the others"
                self.problems.append(f"{image} has no region, {others} (or move all away to let every pixel count)")

    def _compare_orientations(self) -> None:
        """Notes images that are turned when they are read and their masks are not, where their sizes do not tell."""
        differing = []
        for place, mask in self.masks.items():
            with suppress(ValueError, OSError):  # the reader will say what is wrong
                of_image, of_mask = read_header(self.images[place]), read_header(mask)
                keeps_size = max(of_image.orientation, of_mask.orientation) < 5 or of_image.width == of_image.height
                if of_image.orientation != of_mask.orientation and keeps_size:
                    differing.append(self.images[place])
        if differing:
            turned = f"{some(differing)}: turned as the camera noted (EXIF orientation), and the masks are not"
            hint = "if these were drawn on the unturned pixels, remove that note from the images"
            self.notes.append(f"{turned}; {hint}")


def checked(root: Path, folder: Path, files: Mapping[str, Path]) -> Category:
    """A category of which problems are raised and notes shown, also those of `survey`."""
    found = _looked_at(folder, tuple(files.items()))
    refuse(found.problems, root)
    tell(found.notes)
    return found


@lru_cache(maxsize=64)  # for every run of a bench, as long as no name changes
def _looked_at(folder: Path, files: tuple[tuple[str, Path], ...]) -> Category:
    found = Category(folder.absolute().name, dict(files))
    problems, notes = survey(folder, [path for _, path in files])
    found.problems, found.notes = found.problems + problems, found.notes + notes
    return found


def survey(folder: Path, files: Iterable[Path]) -> tuple[list[str], list[str]]:
    """What lies beside the files that count: links to nowhere, and a note on what is passed over where images are."""
    known = {path.absolute() for path in files}
    problems: list[str] = []
    others: dict[tuple[Path, str], list[Path]] = {}
    for path in files_below(folder):
        kind = "image" if is_image_file(path) else f"{path.suffix.lower()} file".strip()
        if not path.exists():
            problems.append(f"{path} is a link to {path.readlink()}, which is not there: mend or remove it")
        is_about = path.suffix.lower() in _ABOUT and (path.parent == folder or (path.parent / "train").is_dir())
        if path.exists() and path.absolute() not in known and not is_about:
            others.setdefault((path.parent, kind), []).append(path)
    lines = [
        f"{len(paths)} {kind}{'s' if len(paths) > 1 else ''} in {parent} passed over ({_names(paths)}): "
        + ("no images are looked for there" if kind == "image" else "no images")
        for (parent, kind), paths in others.items()
    ]
    return problems, lines


def check_mask(mask: Bool[np.ndarray, "h w"], mask_path: Path, image_path: Path, height: int, width: int) -> None:
    """Refuses a mask that has another size than its image."""
    if mask.shape != (height, width):
        turned = " (an image is turned as its camera noted)" if mask.shape == (width, height) else ""
        found = f"the mask {mask_path} has {mask.shape[1]}x{mask.shape[0]} pixels"
        needed = f"its image {image_path} has {width}x{height}{turned}: save the mask in the size of the image"
        raise ValueError(f"{found}, but {needed}")


def refuse(problems: Sequence[str], root: Path) -> None:
    """Raises the first problem of a dataset as a ValueError; nothing if there is none."""
    if problems:
        rest = len(problems) - 1
        raise ValueError(problems[0] + (f" (and {rest} more: python -m anomaly_zoo.data check {root})" if rest else ""))


def tell(notes: Iterable[str]) -> None:
    """Shows notes, each of them once in a process."""
    for note in notes:
        if note not in _told and os.environ.get("LOCAL_RANK", "0") == "0":
            logging.getLogger("anomaly_zoo").warning("note: %s", note)
        _told.add(note)


def at_most(lines: Sequence[str], more: str) -> list[str]:
    """The first lines, and how many more there are."""
    rest = len(lines) - MAX_SHOWN
    return [*lines[:MAX_SHOWN], *([f"{rest} {more}"] if rest > 0 else [])]


def some(paths: Sequence[Path]) -> str:
    """The first files by name: `c/test/hole/000.png, 001.png and 7 more`."""
    return str(paths[0]) + (f", {_names(paths[1:])}" if len(paths) > 1 else "")


def _names(paths: Sequence[Path]) -> str:
    rest = len(paths) - MAX_SHOWN
    return ", ".join(path.name for path in paths[:MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _key(place: str) -> tuple[str, str]:
    _, folder, name = same_name(place).split("/")
    return folder, name_to_match(Path(name))
