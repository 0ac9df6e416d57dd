"""From what a dataset's authors publish to a dataset in the MVTec layout: find or download, unpack, arrange, write.

A converter in `sources/` describes its dataset (`About`) and arranges its files; everything else is here.
"""

import csv
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anomaly_zoo.data.archives import ARCHIVE_SUFFIXES, unpack
from anomaly_zoo.data.download import Download, Progress, check, fetch
from anomaly_zoo.data.images import image_files
from anomaly_zoo.data.tree import FINISHED, Files, Pixels, is_finished, thin_out, write_tree

_BAD_LIST = (csv.Error, json.JSONDecodeError, UnicodeError, LookupError, TypeError, AttributeError)
_DEPTH = 3  # folders that authors and unpackers wrap around a dataset


@dataclass(frozen=True)
class About:
    """What a dataset is, and how to get it.

    Attributes:
        title: its name, as its authors write it.
        licence: in a sentence.
        citation: the papers to cite.
        by_hand: where to get it without a download of ours, in a sentence.
        download: the archive, where the licence allows fetching it and its SHA-256 is known.
        published: images in training, normal and anomalous images in the test split, over all categories, as published
            (and split by us, where the authors did not); None where that is not known for sure.
    """

    title: str
    licence: str
    citation: str
    by_hand: str
    download: Download | None = None
    published: tuple[int, int, int] | None = None


def convert(
    about: About,
    arrange: Callable[[Path], Files],
    target: Path | str,
    raw: Path | str | None = None,
    max_test: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a dataset in the MVTec layout; does nothing if it is there already.

    Args:
        about: the dataset.
        arrange: says which file of the unpacked archive goes where.
        target: folder to create; a dataset is named by its folder.
        raw: the dataset as published, an archive or a folder; downloaded if None.
        max_test: at most this many normal and this many anomalous test images per category; None for all.
        progress: told how far a download is.

    Returns:
        `target`.

    Raises:
        FileNotFoundError: `raw` is not there, or is needed and was not given.
        FileExistsError: `target` holds something else.
        ConnectionError: the download failed.
        ValueError: the archive is damaged, or holds something else than this dataset.
    """
    target = Path(target).expanduser()
    options = {"title": about.title, "max_test": max_test}
    if is_finished(target, options):
        return target
    raw = _archive_or_folder(about, raw, target.parent, progress)
    unpacked = target.parent / f".{target.name}.{uuid.uuid4().hex}.unpacked.tmp"
    try:
        if raw.is_file():
            unpack(raw, unpacked)
        try:
            files = thin_out(arrange(unpacked if raw.is_file() else raw), max_test)
        except _BAD_LIST as error:
            shown = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{raw} holds a list that cannot be understood ({shown}): get or unpack it again"
            ) from error
        except FileNotFoundError as error:
            raise FileNotFoundError(str(error).replace(str(unpacked), str(raw))) from error
        write_tree(target, files, {"licence": about.licence, "citation": about.citation}, options)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def how_to_get(about: About) -> str:
    """What to do by hand, in one line."""
    return f"{about.title}: {about.by_hand} Then pass the archive or the unpacked folder with --from."


def differs_from_published(about: About, target: Path) -> str | None:
    """Compares a finished conversion with the published numbers of images.

    Args:
        about: the dataset.
        target: the conversion.

    Returns:
        The difference in a sentence; None if there is none, or it was thinned out or labelled otherwise on purpose.
    """
    record = json.loads((target / FINISHED).read_text(encoding="utf-8"))
    if about.published is None or record.get("max_test") is not None or record.get("labels") is not None:
        return None
    counts: Counter[str] = Counter()
    for folder, number in record["images"].items():
        split, _, kind = folder.partition("/")[2].partition("/")
        counts["train" if split == "train" else "normal" if kind == "good" else f"{split}"] += number
    found = (counts["train"], counts["normal"], counts["test"])
    if found == about.published:
        return None
    shown = ["{} training, {} normal and {} anomalous test images".format(*n) for n in (found, about.published)]
    return f"{target} has {shown[0]}; {about.title} was published with {shown[1]}"


def locate(folder: Path, *patterns: str) -> Path:
    """Finds the dataset inside the folders that are wrapped around it.

    Args:
        folder: where to begin.
        patterns: globs, each of which the dataset's folder matches, such as `*/train/good`.

    Returns:
        The first such folder, the outermost first.

    Raises:
        FileNotFoundError: there is none.
    """
    level = [folder]
    for _ in range(_DEPTH + 1):
        for candidate in level:
            if all(any(candidate.glob(pattern)) for pattern in patterns):
                return candidate
        level = [child for parent in level for child in subfolders(parent)]
    raise FileNotFoundError(f"{folder} does not hold what it should, {' and '.join(patterns)}: is it another dataset?")


def subfolders(parent: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones; none if it is not there."""
    if not parent.is_dir():
        return []
    hidden = (".", "__MACOSX")
    return sorted((p for p in parent.iterdir() if p.is_dir() and not p.name.startswith(hidden)), key=lambda p: p.name)


def inside(root: Path, name: str) -> Path:
    """The file that a list of the dataset names: lists come from strangers, as archives do.

    Args:
        root: the folder that the list's paths begin in.
        name: as the list has it.

    Returns:
        `root / name`.

    Raises:
        ValueError: it is absolute, or leads out of `root`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise ValueError(f"a list in {root} names {name!r}, which leads out of it: is it the published one?")
    return root / path


def placed(folder: str, images: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Every image with its place in a folder of the tree, such as `screw/train/good`, under its own name."""
    return ((f"{folder}/{path.name}", path) for path in images)


def with_masks(
    category: str, defect: str, pairs: Iterable[tuple[Path, Path | Pixels]]
) -> Iterator[tuple[str, Path | Pixels]]:
    """Every anomalous test image and its mask with their places.

    Args:
        category: the category's name.
        defect: the name of the test folder.
        pairs: images and their masks.

    Yields:
        Place and source, as in `Files`.

    Raises:
        FileNotFoundError: a mask is not there.
    """
    for image, mask in pairs:
        if isinstance(mask, Path) and not mask.is_file():
            raise FileNotFoundError(f"{image} is anomalous, but its mask {mask} is missing: is the dataset complete?")
        suffix = mask.suffix.lower() if isinstance(mask, Path) else ".png"
        yield f"{category}/test/{defect}/{image.name}", image
        yield f"{category}/ground_truth/{defect}/{image.stem}_mask{suffix}", mask


def mvtec_tree(root: Path, normal: str = "good", masks: bool = True) -> Files:
    """The files of a dataset that is laid out like MVTec AD already.

    Args:
        root: the folder that holds the categories.
        normal: what the authors call the folder of normal images.
        masks: whether to take the ground truth over.

    Returns:
        Where everything goes.

    Raises:
        FileNotFoundError: an anomalous image has no mask.
    """
    files: dict[str, Path | Pixels] = {}
    for category in subfolders(root):
        name = category.name
        if not (category / "train" / normal).is_dir():
            continue
        files.update(placed(f"{name}/train/good", image_files(category / "train" / normal)))
        for folder in subfolders(category / "test"):
            images = image_files(folder)
            if folder.name == normal or not masks:
                files.update(placed(f"{name}/test/{'good' if folder.name == normal else folder.name}", images))
                continue
            truth = category / "ground_truth" / folder.name
            by_stem = {path.stem.removesuffix("_mask"): path for path in image_files(truth)}
            missing = [(image, by_stem.get(image.stem, truth / f"{image.stem}_mask.png")) for image in images]
            files.update(with_masks(name, folder.name, missing))
    return files


def _archive_or_folder(about: About, raw: Path | str | None, datasets: Path, progress: Progress | None) -> Path:
    if raw is None:
        if about.download is None:
            raise FileNotFoundError(f"{about.title} is not downloaded for you. {how_to_get(about)}")
        return fetch(about.download, datasets / "downloads", progress)
    raw = Path(raw).expanduser()
    if not raw.exists():
        raise FileNotFoundError(f"there is no {raw}. {how_to_get(about)}")
    if raw.is_file():
        if not raw.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"{raw} is no archive: pass one of {', '.join(ARCHIVE_SUFFIXES)}, or a folder")
        if about.download is not None:
            check(raw, about.download.sha256)
    return raw
