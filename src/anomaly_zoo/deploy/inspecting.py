"""What inspects, what it says, and which files it is shown. Needs no torch."""

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES
from anomaly_zoo.pictures import Scale

INPUT, FORMAT = "image", "anomaly_zoo"
"""Of an exported file: the name of its input, and what its metadata says who wrote it."""

OUTPUTS = ("image_score", "anomaly_map", "p_value", "conformal_p_value", "is_anomalous")
"""Of an exported file."""


@dataclass(frozen=True)
class Inspection:
    """What a model says of one image.

    Attributes:
        image_score: higher is more anomalous; without a unit.
        p_value: the share of normal images that would score as high, by the tail fitted to the support's scores.
        conformal_p_value: the same by rank among the support's scores, never below 1 / (n + 1).
        is_anomalous: whether the score is above the threshold.
        anomaly_map: float32 `h w`, a score per pixel of the resized image.
    """

    image_score: float
    p_value: float
    conformal_p_value: float
    is_anomalous: bool
    anomaly_map: np.ndarray

    def numbers(self, threshold: float) -> dict[str, Any]:
        """The decision and what it was made from, by name."""
        return {
            "decision": "anomalous" if self.is_anomalous else "normal",
            "image_score": self.image_score,
            "threshold": threshold,
            "p_value": self.p_value,
            "conformal_p_value": self.conformal_p_value,
        }


@runtime_checkable
class Inspector(Protocol):
    """What can inspect images: a model folder in torch, or an exported file in onnxruntime."""

    threshold: float
    """Image score above which an image counts as anomalous."""

    scale: Scale
    """What the colours of its maps mean."""

    def read(self, path: Path) -> np.ndarray:
        """Reads a file as uint8 RGB `h w 3`; ValueError or OSError if that is impossible."""

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes; what it says of one does not depend on the others."""


def find_images(sources: Sequence[str]) -> Iterator[Path]:
    """Yields image files one by one, so that a folder may hold any number of them.

    Sources are files, folders (with all folders inside them, sorted by name) and patterns such as `shots/*.png`;
    FileNotFoundError if there is no such file.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir() and not path.is_symlink():  # a link could lead in circles
            yield from _inside(path)
        elif path.is_file():
            yield path
        else:
            matches = (Path(match) for match in sorted(glob.glob(source, recursive=True)))  # noqa: PTH207 - may be absolute
            found = [match for match in matches if match.is_file()]
            if not found:
                raise FileNotFoundError(f"no image {source}: pass image files, a folder, or a pattern in quotes.")
            yield from found


def watch_folder(
    folder: Path,
    known: set[str],
    is_whole: Callable[[Path], bool],
    should_stop: Callable[[], bool] = lambda: False,
    interval_s: float = 0.5,
    patience_s: float = 10.0,
) -> Iterator[Path]:
    """Yields every image that appears in a folder, once it is whole, for as long as nobody says stop.

    A file counts as written when its size and time have not changed between two looks and it can be read. One that
    cannot be read is tried again until it has not changed for `patience_s`; then it is yielded all the same, so that it
    is reported and not lost. A file that changes after it was yielded is a new image. Paths in `known` are passed over.
    """
    done: dict[Path, tuple[int, int] | None] = {Path(path): None for path in known}
    waiting: dict[Path, tuple[tuple[int, int], float]] = {}
    while not should_stop():
        now = time.monotonic()
        there = set()
        for path in _inside(folder):
            there.add(path)
            state = _state(path)
            if state is None or (path in done and done[path] in (None, state)):
                continue
            before, since = waiting.get(path, (None, now))
            if state != before:
                waiting[path] = (state, now)
            elif is_whole(path) or now - since >= patience_s:
                del waiting[path]
                done[path] = state
                yield path
        for gone in (done.keys() | waiting.keys()) - there:  # a camera's folder is emptied now and then
            done.pop(gone, None)
            waiting.pop(gone, None)
        time.sleep(interval_s)


def _inside(folder: Path) -> Iterator[Path]:
    """Images below a folder, sorted; hidden ones are passed over, since cameras and editors write into them."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _inside(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            yield path


def _state(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns; None if the file has gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
