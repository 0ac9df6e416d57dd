"""What inspects, what it says, and which files it is shown. Needs no torch."""

import glob
import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_zoo.data.image_files import images_below, is_hidden
from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.calibration import Calibration
from anomaly_zoo.pictures import Scale

# Of an exported file: the names of its input and outputs, and what its metadata says who wrote it
INPUT, FORMAT = "image", "anomaly_zoo"
OUTPUTS = ("image_score", "anomaly_map", "p_value", "conformal_p_value", "is_anomalous")

# In the folder that `predict` writes: its lines, the contact sheet, and folders of other pictures
LINES, SHEET = "predictions.jsonl", "contact_sheet.png"
PICTURES = ("overlays", "masks", "maps")

_WANTED = "pass a list of uint8 RGB arrays of shape (height, width, 3), as `read` returns them, with values 0 to 255."


@dataclass(frozen=True)
class Inspection:
    """What a model says of one image."""

    image_score: float  # higher is more anomalous; without a unit
    p_value: float  # the share of normal images that would score as high, by the tail fitted to the support's scores
    conformal_p_value: float  # the same by rank among the support's scores, never below 1 / (n + 1)
    is_anomalous: bool | None  # whether the score is above the threshold; None if there is no threshold
    anomaly_map: np.ndarray  # float32 `h w`, a score per pixel of the resized image

    def numbers(self, threshold: float | None) -> dict[str, Any]:
        """The decision and what it was made from, by name."""
        return {
            "decision": {True: "anomalous", False: "normal", None: "undecided"}[self.is_anomalous],
            "image_score": self.image_score,
            "threshold": threshold,
            "p_value": self.p_value,
            "conformal_p_value": self.conformal_p_value,
        }


class Inspector(ABC):
    """What can inspect images: a model folder in torch, or an exported file in onnxruntime."""

    read = staticmethod(read_image)

    def __init__(self, calibration: Calibration, warnings: Sequence[str]) -> None:
        self.calibration = calibration
        self.warnings = tuple(warnings)  # why decisions cannot be relied on, and what to do

    @abstractmethod
    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores uint8 RGB images of any sizes; what it says of one does not depend on the others."""

    @property
    def threshold(self) -> float | None:
        """Image score above which an image counts as anomalous; None if nothing is decided."""
        return self.calibration.threshold

    @property
    def scale(self) -> Scale:
        """What the colours of its maps mean."""
        return Scale(level=self.calibration.map_level, threshold=self.calibration.map_threshold)

    def decide(self, threshold: float | None, false_alarm_rate: float | None) -> None:
        """Decides by another threshold, or for another rate; a threshold of one's own needs no warnings."""
        self.calibration = self.calibration.at(threshold, false_alarm_rate)
        self.warnings = self.warnings if threshold is None else ()

    def is_above(self, score: float) -> bool | None:
        """Whether a score is above the threshold, if there is one."""
        return None if self.threshold is None else score > self.threshold


def warn(warnings: Sequence[str]) -> None:
    """Writes a line for each."""
    sys.stderr.write("".join(f"warning: {warning}\n" for warning in warnings))


def checked(images: Sequence[Any]) -> list[np.ndarray]:
    """The images, contiguous; ValueError if one is anything but uint8 RGB. BGR looks the same: nobody can tell."""
    for number, image in enumerate(images):
        is_array = isinstance(image, np.ndarray)
        if not is_array or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            found = f"a {image.dtype} array of shape {image.shape}" if is_array else f"a {type(image).__name__}"
            raise ValueError(f"image {number} is {found}: {_WANTED}")
    return [np.ascontiguousarray(image) for image in images]


def find_images(sources: Sequence[str]) -> Iterator[Path]:
    """Yields image files: of files, of folders (with all inside them) and of patterns such as `shots/*.png`.

    FileNotFoundError if there is no such file. What `predict` wrote is passed over.
    """
    for source in sources:
        path = Path(source)
        found: Iterable[Path] = images_below(path) if path.is_dir() else [path]
        if not path.exists():
            matches = sorted(map(Path, glob.glob(source, recursive=True)), reverse=True)  # noqa: PTH207 - may be absolute
            # Hidden ones count where the pattern names them
            files = [m for m in matches if m.is_file() and not any(map(is_hidden, {*m.parts} - {*path.parts}))]
            found = sorted({match.resolve(): match for match in files}.values())  # links can lead in circles
            if not found:
                raise FileNotFoundError(f"no image {source}: pass image files, a folder, or a pattern in quotes.")
        yield from _not_written_here(found)


def _not_written_here(paths: Iterable[Path]) -> Iterator[Path]:
    """Leaves out the pictures that `predict` wrote, now or in an earlier run."""
    ours: dict[Path, tuple[bool, bool]] = {}
    for path in paths:
        if path.parent not in ours:
            folder = path.parent.resolve()
            is_of_pictures = folder.name in PICTURES and (folder.parent / LINES).is_file()
            ours[path.parent] = is_of_pictures, (folder / LINES).is_file()
        is_of_pictures, holds_sheet = ours[path.parent]
        if not is_of_pictures and not (holds_sheet and path.name == SHEET):
            yield path


def file_state(path: Path) -> str:
    """Its size in bytes, and when content and entry last changed, in ns; "" if it has gone."""
    with suppress(OSError):
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    return ""


def file_sha256(path: Path) -> str:
    """Hash of what is in a file; "" if it cannot be read."""
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""


def watch_folder(
    folder: Path,
    known: Mapping[Path, tuple[str, str]],
    is_whole: Callable[[Path], bool],
    should_stop: Callable[[], bool] = lambda: False,
    interval_s: float = 0.5,
    patience_s: float = 10.0,
) -> Iterator[Path]:
    """Yields every image that appears in a folder, once it is whole, until somebody says stop or the folder is gone.

    A file is whole when its state has not changed between two looks and it can be read. One that cannot is yielded all
    the same, to be reported, once it has not changed for `patience_s`. Changed content makes a new image. `known` holds
    state and hash of images that need not come again, by absolute path.
    """
    done = dict(known)
    waiting: dict[Path, tuple[str, float]] = {}
    while not should_stop() and folder.is_dir():
        try:
            paths = {path.absolute(): path for path in _not_written_here(images_below(folder))}
        except FileNotFoundError:  # a folder in it went while it was listed
            paths = {}
        now = time.monotonic()
        for key, path in paths.items():
            last, content = done.get(key, ("", ""))
            state = file_state(path)
            if state in ("", last):
                continue
            before, since = waiting.get(key, ("", now))
            if state != before:
                waiting[key] = (state, now)
            elif is_whole(path) or now - since >= patience_s:
                del waiting[key]
                done[key] = (state, file_sha256(path))
                if not content or done[key][1] != content:  # it was not only touched
                    yield path
        for gone in (done.keys() | waiting.keys()) - paths.keys():  # a camera's folder is emptied now and then
            done.pop(gone, None)
            waiting.pop(gone, None)
        time.sleep(interval_s)
