"""What inspecting files leaves behind: a table, JSON lines, overlays, a contact sheet and a summary. Needs no torch."""

import csv
import heapq
import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from PIL import Image

from anomaly_zoo.deploy.inspecting import Inspection, Inspector
from anomaly_zoo.files import replacing, write_whole
from anomaly_zoo.pictures import contact_sheet, overlay, tile

TABLE, LINES, SHEET, SUMMARY = "predictions.csv", "predictions.jsonl", "contact_sheet.png", "summary.json"
_NUMBERS = ("image_score", "threshold", "p_value", "conformal_p_value", "map_peak")
_COLUMNS = ("path", "decision", *_NUMBERS, "overlay", "error")
_SHEET_TILES = 48
_LONGEST_NAME = 80


class PredictionWriter:
    """Writes one image at a time, so that memory stays bounded however many there are. Use it as a context manager.

    The table and the JSON lines grow by whole lines. The contact sheet (the highest scores) and `summary.json` come at
    the end; a folder without a summary belongs to a run that was killed.

    Args:
        folder: made when needed.
        inspector: gives the threshold and the colours.
        overlays: of which images.
        append: go on after the lines of an earlier run; otherwise they are replaced.

    Attributes:
        known: paths in the lines of the earlier run.
        counts: images by decision, of this run.
    """

    def __init__(
        self,
        folder: Path,
        inspector: Inspector,
        overlays: Literal["anomalous", "all", "none"] = "anomalous",
        append: bool = False,
    ) -> None:
        self.folder = folder
        self.threshold, self.scale = inspector.threshold, inspector.scale
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
        self._rows = csv.DictWriter(self._table, _COLUMNS)
        if not self.known:
            self._rows.writeheader()

    def write(self, path: Path, image: np.ndarray, found: Inspection) -> None:
        """Adds a file, its pixels (uint8 RGB `h w 3`, in its own size), and what the model says of it."""
        name = ""
        if self.overlays == "all" or (self.overlays == "anomalous" and found.is_anomalous):
            name = f"overlays/{self._number:06}_{path.stem[:_LONGEST_NAME]}.png"
            _write_picture(overlay(image, found.anomaly_map, self.scale), self.folder / name)
        self._consider(path, image, found)
        self._add(path, found.numbers(self.threshold) | {"map_peak": float(found.anomaly_map.max()), "overlay": name})

    def write_unreadable(self, path: Path, error: Exception) -> None:
        """Adds a file that is no readable image; it counts neither as normal nor as anomalous."""
        self._add(path, {"decision": "unreadable", "error": " ".join(str(error).split())})

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
        summary = {
            "images": sum(self.counts.values()),
            **self.counts,
            "threshold": self.threshold,
            "map_threshold": self.scale.threshold,
            "seconds": round(time.monotonic() - self._start, 3),
        }
        write_whole(self.folder / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())

    def _add(self, path: Path, values: dict[str, Any]) -> None:
        row = {"path": str(path), **dict.fromkeys(("decision", *_NUMBERS)), "overlay": "", "error": "", **values}
        self._rows.writerow(row)
        self._table.flush()
        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._lines.flush()
        self._number += 1
        self.counts[values["decision"]] += 1

    def _consider(self, path: Path, image: np.ndarray, found: Inspection) -> None:
        """Keeps a tile of the image if its score is among the highest so far."""
        if len(self._highest) == _SHEET_TILES and found.image_score <= self._highest[0][0]:
            return
        label = f"{found.image_score:.3g} {path.stem[-18:]}"
        picture = tile(image, found.anomaly_map, self.scale, label, found.is_anomalous)
        push = heapq.heappushpop if len(self._highest) == _SHEET_TILES else heapq.heappush
        push(self._highest, (found.image_score, self._number, picture))


def inspect_files(inspector: Inspector, paths: Iterable[Path], writer: PredictionWriter, batch_size: int = 8) -> None:
    """Inspects files, `batch_size` of them in memory at once, and writes what is found.

    A file that cannot be read is written down and passed over.
    """
    for batch in _batches(paths, batch_size):
        images = [(path, _read(inspector, path)) for path in batch]
        readable = [image for _, image in images if isinstance(image, np.ndarray)]
        found = iter(inspector.inspect(readable) if readable else [])
        for path, image in images:
            if isinstance(image, np.ndarray):
                writer.write(path, image, next(found))
            else:
                writer.write_unreadable(path, image)


def is_whole(inspector: Inspector, path: Path) -> bool:
    """Whether a file can be read to its end."""
    return isinstance(_read(inspector, path), np.ndarray)


def _read(inspector: Inspector, path: Path) -> np.ndarray | Exception:
    try:
        return inspector.read(path)
    except (ValueError, OSError) as error:
        return error


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    rest = iter(paths)
    while batch := list(islice(rest, size)):
        yield batch


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
    with replacing(path, durable=False) as temporary:
        picture.save(temporary, format="PNG")
