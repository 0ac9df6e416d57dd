"""From what a dataset's authors publish to a dataset in the MVTec layout: find or download, unpack, arrange, write."""

import csv
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from anomaly_zoo.data.prepare.archives import ARCHIVE_SUFFIXES, unpack
from anomaly_zoo.data.prepare.download import Download, Progress, check_sha256, fetch
from anomaly_zoo.data.prepare.tree import FINISHED, Source, is_finished, thin_out, write_tree

_BAD_LIST = (csv.Error, json.JSONDecodeError, UnicodeError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class PublicDataset:
    """What a dataset is, how to get it, and where its files go."""

    title: str
    licence: str
    citation: str
    by_hand: str  # where to get it without a download of ours
    arrange: Callable[[Path], Iterable[tuple[str, Source]]]  # the unpacked files, and their places in the MVTec layout
    download: Download | None = None  # where the licence allows fetching it and its SHA-256 is known
    published: tuple[int, int, int] | None = None  # normal training images, normal and anomalous test images, if known
    max_test: int | None = None  # test images of a category, unless another number is asked for


def convert(
    dataset: PublicDataset,
    target: Path,
    raw: Path | None = None,
    max_test: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a dataset in the MVTec layout, and returns its folder; does nothing if it is there already.

    The target names the dataset. `raw` is the dataset as published, an archive or a folder, or None to download it; for
    `max_test` see `thin_out`. OSError if `raw` is missing, `target` holds something else, or the download failed;
    ValueError if the archive is damaged, or another one.
    """
    options = {"title": dataset.title, "max_test": max_test}
    if is_finished(target, options):
        return target
    raw = _archive_or_folder(dataset, raw, target.parent, progress)
    unpacked = target.parent / f".{target.name}.{uuid.uuid4().hex}.unpacked.tmp"
    try:
        if raw.is_file():
            unpack(raw, unpacked)
        try:
            files = thin_out(dict(dataset.arrange(unpacked if raw.is_file() else raw)), max_test)
        except _BAD_LIST as error:
            shown = f"{type(error).__name__}: {error}"
            raise ValueError(f"{raw} holds a list that is not understood ({shown}): get or unpack it again") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(str(error).replace(str(unpacked), str(raw))) from error
        write_tree(target, files, {"licence": dataset.licence, "citation": dataset.citation}, options)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    return target


def how_to_get(dataset: PublicDataset) -> str:
    """What to do by hand, in one line."""
    return f"{dataset.title}: {dataset.by_hand} Then pass the archive or the unpacked folder with --from."


def differs_from_published(dataset: PublicDataset, target: Path) -> str | None:
    """How a finished conversion differs from the published numbers of images; None if that was on purpose, or not."""
    about = json.loads((target / FINISHED).read_text(encoding="utf-8"))
    if dataset.published is None or about.get("max_test") is not None or about.get("labels") is not None:
        return None
    counts: Counter[str] = Counter()
    for folder, number in about["images"].items():
        split, _, kind = folder.partition("/")[2].partition("/")
        counts["normal" if (split, kind) == ("test", "good") else split] += number
    found = (counts["train"], counts["normal"], counts["test"])
    if found == dataset.published:
        return None
    shown = ["{} training, {} normal and {} anomalous test images".format(*n) for n in (found, dataset.published)]
    return f"{target} has {shown[0]}; {dataset.title} was published with {shown[1]}"


def _archive_or_folder(dataset: PublicDataset, raw: Path | None, datasets: Path, progress: Progress | None) -> Path:
    if raw is None:
        if dataset.download is None:
            raise FileNotFoundError(f"{dataset.title} is not downloaded for you. {how_to_get(dataset)}")
        return fetch(dataset.download, datasets / "downloads", progress)
    raw = raw.expanduser()
    if not raw.exists():
        raise FileNotFoundError(f"there is no {raw}. {how_to_get(dataset)}")
    if raw.is_file():
        if not raw.name.lower().endswith(ARCHIVE_SUFFIXES):
            raise ValueError(f"{raw} is no archive: pass one of {', '.join(ARCHIVE_SUFFIXES)}, or a folder")
        if dataset.download is not None:
            check_sha256(raw, dataset.download.sha256)
    return raw
