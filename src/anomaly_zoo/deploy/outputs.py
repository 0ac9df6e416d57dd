"""What inspecting files leaves behind: a table, JSON lines, overlays, a contact sheet and a summary.

NumPy and Pillow only, so that it is there without torch.
"""

import csv
import heapq
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from PIL import Image

from anomaly_zoo.deploy.pictures import Scale, contact_sheet, overlay, tile

Overlays = Literal["anomalous", "all", "none"]
TABLE, LINES, SHEET, SUMMARY = "predictions.csv", "predictions.jsonl", "contact_sheet.png", "summary.json"
_SHEET_TILES = 48
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Inspection:
    """What a model says of one image.

    Attributes:
        image_score: higher is more anomalous; without a unit.
        p_value: the share of normal images that would score as high, by the tail fitted to the support's scores.
        conformal_p_value: the same by rank among the support's scores, never below 1 / (n + 1).
        is_anomalous: whether the score is above the threshold.
        anomaly_map: float32 `s s`, a score per pixel of the resized image.
    """

    image_score: float
    p_value: float
    conformal_p_value: float
    is_anomalous: bool
    anomaly_map: np.ndarray


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    path: str
    decision: Literal["normal", "anomalous", "unreadable"]
    image_score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    conformal_p_value: float | None = None
    map_peak: float | None = None
    overlay: str = ""
    error: str = ""


class PredictionWriter:
    """Writes one image at a time, so that memory stays bounded however many there are. Use it as a context manager.

    The table and the JSON lines grow by whole lines. The contact sheet (the highest scores) and `summary.json` come at
    the end; a folder without a summary belongs to a run that was killed.

    Args:
        folder: made when needed.
        threshold: of image scores.
        scale: of the maps' colours.
        overlays: of which images.
        append: go on after the lines of an earlier run; otherwise they are replaced.

    Attributes:
        known: paths in the lines of the earlier run.
        counts: images by decision, of this run.
    """

    def __init__(
        self, folder: Path, threshold: float, scale: Scale, overlays: Overlays = "anomalous", append: bool = False
    ) -> None:
        self.folder = folder
        self.threshold = threshold
        self.scale = scale
        self.overlays = overlays
        self.counts = {"normal": 0, "anomalous": 0, "unreadable": 0}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        for name in (TABLE, LINES) if append else ():
            _mend(folder / name)
        self.known = _known(folder / LINES) if append else set()
        self._number = len(self.known)
        self._highest: list[tuple[float, int, Image.Image]] = []
        self._start = time.monotonic()
        mode = "a" if self.known else "w"
        self._lines = (folder / LINES).open(mode, encoding="utf-8", errors="backslashreplace")
        self._table = (folder / TABLE).open(mode, newline="", encoding="utf-8", errors="backslashreplace")
        self._rows = csv.DictWriter(self._table, [*Row.__dataclass_fields__])
        if not self.known:
            self._rows.writeheader()

    def write(self, path: Path, image: np.ndarray, found: Inspection) -> None:
        """Adds an image.

        Args:
            path: its file.
            image: uint8 RGB `h w 3`, in its own size.
            found: what the model says of it.
        """
        decision: Literal["normal", "anomalous"] = "anomalous" if found.is_anomalous else "normal"
        name = ""
        if self.overlays == "all" or (self.overlays == "anomalous" and found.is_anomalous):
            name = f"overlays/{self._number:06}_{path.stem[:_LONGEST_NAME]}.png"
            _write_picture(overlay(image, found.anomaly_map, self.scale), self.folder / name)
        self._consider(path, image, found)
        self._add(
            Row(
                path=str(path),
                decision=decision,
                image_score=found.image_score,
                threshold=self.threshold,
                p_value=found.p_value,
                conformal_p_value=found.conformal_p_value,
                map_peak=float(found.anomaly_map.max()),
                overlay=name,
            )
        )

    def write_unreadable(self, path: Path, error: Exception) -> None:
        """Adds a file that is no readable image; it counts neither as normal nor as anomalous."""
        self._add(Row(path=str(path), decision="unreadable", error=" ".join(str(error).split())))

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()
        self._lines.close()
        if kind is not None:
            return
        if self._highest:
            tiles = [picture for *_, picture in sorted(self._highest, key=lambda entry: entry[:2], reverse=True)]
            _write_picture(contact_sheet(tiles), self.folder / SHEET)
        summary: dict[str, Any] = {
            "images": sum(self.counts.values()),
            **self.counts,
            "threshold": self.threshold,
            "map_threshold": self.scale.threshold,
            "seconds": round(time.monotonic() - self._start, 3),
        }
        _write_whole(self.folder / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())

    def _add(self, row: Row) -> None:
        values = asdict(row)
        self._rows.writerow(values)
        self._table.flush()
        self._lines.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._lines.flush()
        self._number += 1
        self.counts[row.decision] += 1

    def _consider(self, path: Path, image: np.ndarray, found: Inspection) -> None:
        """Keeps a tile of the image if its score is among the highest so far."""
        if len(self._highest) == _SHEET_TILES and found.image_score <= self._highest[0][0]:
            return
        label = f"{found.image_score:.3g} {path.stem[-18:]}"
        picture = tile(image, found.anomaly_map, self.scale, label, found.is_anomalous)
        push = heapq.heappushpop if len(self._highest) == _SHEET_TILES else heapq.heappush
        push(self._highest, (found.image_score, self._number, picture))


def _mend(path: Path) -> None:
    """Cuts off what the machine was writing when it stopped, so that the file ends with a whole line."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _known(path: Path) -> set[str]:
    """Paths in the JSON lines."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8") as lines:
        return {str(json.loads(line)["path"]) for line in lines}


def _write_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
