"""What inspecting files leaves behind: a table, JSON lines, overlays, a contact sheet and a summary. Needs no torch."""

import csv
import heapq
import json
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from anomaly_zoo.deploy.inspecting import LINES, PICTURES, SHEET, Inspection, Inspector, file_sha256, file_state
from anomaly_zoo.files import replacing, write_whole
from anomaly_zoo.pictures import contact_sheet, overlay, tile

TABLE, SUMMARY = "predictions.csv", "summary.json"
_NUMBERS = ("image_score", "threshold", "p_value", "conformal_p_value", "map_peak")
_FILES = ("overlay", "error", "mask", "map", "file_state", "sha256")
_COLUMNS = ("path", "decision", *_NUMBERS, *_FILES)
_SHEET_TILES = 48
_LONGEST_NAME = 80


class PredictionWriter:
    """Writes one image at a time, so that memory stays bounded however many there are. Use it as a context manager.

    The table and the JSON lines grow by whole lines. The contact sheet (the highest scores) and `summary.json` come at
    the end; a folder without a summary belongs to a run that was killed.

    Args:
        overlays: of which images, with a mask of the pixels above the threshold of the map, if there is a decision.
        append: go on after the lines of an earlier run, whose images are `known`; otherwise they are replaced.
        maps: whether the map of every image is written in the image's own size, and its mask.
    """

    def __init__(
        self,
        folder: Path,
        inspector: Inspector,
        overlays: Literal["anomalous", "all", "none"] = "anomalous",
        append: bool = False,
        maps: bool = False,
    ) -> None:
        self.folder = folder
        self.threshold, self.scale, self.warnings = inspector.threshold, inspector.scale, inspector.warnings
        self.overlays, self.maps = overlays, maps
        self.counts = {"normal": 0, "anomalous": 0, "undecided": 0, "unreadable": 0}
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"--output {folder} is a file: choose another name for the folder.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        for name in (TABLE, LINES) if append else ():
            _mend(folder / name)
        earlier = [path for name in PICTURES for path in (folder / name).glob("[0-9]" * 6 + "_*")]
        for path in () if append else (folder / SHEET, *earlier):  # their lines go as well
            path.unlink(missing_ok=True)
        self.known, self._number = _known(folder / LINES) if append else ({}, 0)
        self._highest: list[tuple[float, int, Image.Image]] = []
        self._start = time.monotonic()
        mode = "a" if self._number else "w"
        self._lines = (folder / LINES).open(mode, encoding="utf-8", errors="backslashreplace")
        self._table = (folder / TABLE).open(mode, newline="", encoding="utf-8", errors="backslashreplace")
        self._rows = csv.DictWriter(self._table, _COLUMNS)
        if not self._number:
            self._rows.writeheader()

    def write(self, path: Path, image: np.ndarray, found: Inspection, seen: tuple[str, str] = ("", "")) -> None:
        """Adds a file, its pixels in its own size, what the model says, and the state and hash it had before."""
        name, files = f"{self._number:06}_{path.stem[:_LONGEST_NAME]}", dict.fromkeys(("overlay", "mask", "map"), "")
        is_shown = self.overlays == "all" or (self.overlays == "anomalous" and found.is_anomalous is not False)
        if is_shown:
            files["overlay"] = f"overlays/{name}.png"
            _write_picture(overlay(image, found.anomaly_map, self.scale), self.folder / files["overlay"])
        if is_shown or self.maps:
            small = Image.fromarray(found.anomaly_map.astype(np.float32))
            stretched = np.asarray(small.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
            if found.is_anomalous is not None:
                files["mask"] = f"masks/{name}.png"
                mask = np.uint8(255) * (stretched > self.scale.threshold)
                _write_picture(Image.fromarray(mask), self.folder / files["mask"])
            if self.maps:
                files["map"] = f"maps/{name}.npy"
                with replacing(self.folder / files["map"], durable=False) as temporary, temporary.open("wb") as file:
                    np.save(file, stretched)
        self._consider(path, image, found)
        self._add(path, found.numbers(self.threshold) | {"map_peak": float(found.anomaly_map.max())} | files, seen)

    def write_unreadable(self, path: Path, error: Exception, seen: tuple[str, str] = ("", "")) -> None:
        """Adds a file that is no readable image; it counts neither as normal nor as anomalous."""
        self._add(path, {"decision": "unreadable", "error": " ".join(str(error).split())}, seen)

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
            "warnings": self.warnings,
            "threshold": self.threshold,
            "map_threshold": self.scale.threshold,
            "seconds": round(time.monotonic() - self._start, 3),
        }
        write_whole(self.folder / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())

    def _add(self, path: Path, values: dict[str, Any], seen: tuple[str, str]) -> None:
        empty: dict[str, Any] = dict.fromkeys(_COLUMNS) | dict.fromkeys(_FILES, "")
        row = empty | {"path": str(path), "file_state": seen[0], "sha256": seen[1]} | values
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
    """Inspects files, `batch_size` of them in memory at once, and writes what is found, or that one is unreadable."""
    rest = iter(paths)
    while batch := list(islice(rest, batch_size)):
        seen = [(file_state(path), file_sha256(path)) for path in batch]  # before reading: what comes later is new
        images = [_read(inspector, path) for path in batch]
        readable = [image for image in images if isinstance(image, np.ndarray)]
        found = iter(inspector.inspect(readable) if readable else [])
        for path, image, state in zip(batch, images, seen, strict=True):
            if isinstance(image, np.ndarray):
                writer.write(path, image, next(found), state)
            else:
                writer.write_unreadable(path, image, state)


def is_whole(inspector: Inspector, path: Path) -> bool:
    """Whether a file can be read to its end."""
    return isinstance(_read(inspector, path), np.ndarray)


def _read(inspector: Inspector, path: Path) -> np.ndarray | Exception:
    try:
        return inspector.read(path)
    except (ValueError, OSError) as error:
        return error


def _mend(path: Path) -> None:
    """Cuts off what the machine was writing when it stopped, so that the file ends with a whole line."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _known(path: Path) -> tuple[dict[Path, tuple[str, str]], int]:
    """Files in the JSON lines, and the number of lines; ValueError if another version wrote them."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        rows = [json.loads(line) for line in lines]
        return {Path(row["path"]).absolute(): (row["file_state"], row["sha256"]) for row in rows}, len(rows)
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} has lines that are not of this version: choose another --output.") from None


def _write_picture(picture: Image.Image, path: Path) -> None:
    with replacing(path, durable=False) as temporary:
        picture.save(temporary, format="PNG")
