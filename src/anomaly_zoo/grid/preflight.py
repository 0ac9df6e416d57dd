"""Fails before any long work: the weights, the method's numbers, the supports, every image that will be read.

What has been checked is noted in the store, so that a resumed bench, or the next task of a job array, does not read all
images for that once more. The note is of the files' names, sizes and times: a file that changes is checked again.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.grid.cells import Cell, sha256, version_of
from anomaly_zoo.grid.engine import cores
from anomaly_zoo.grid.worker import warm_up


def check(cells: Sequence[Cell], console: Console) -> None:
    """Builds a cell of every method and backbone, and reads every image that has not been checked before.

    Raises:
        ValueError: a wrong number, an image that cannot be read, or weights that cannot be loaded.
        OSError: something is missing.
    """
    for cell in {(cell.method, cell.config["backbone"]["name"]): cell for cell in reversed(cells)}.values():
        warm_up(cell.config)
    notes: list[Path] = []
    seen: set[object] = set()
    with console.status("Checking the images") as status:
        for cell in sorted(cells, key=lambda cell: -cell.config["data"]["shots"]):  # a support holds the smaller ones
            data = MVTecDataModule(**cell.config["data"], seed=cell.config["seed_everything"])
            category, draw = (data.root, data.category), (data.root, data.category, data.seed)
            if (*draw, data.shots) in seen:
                continue
            data.setup()
            status.update(f"Checking the images of {escape(data.category)}, seed {data.seed}")
            if draw not in seen:
                notes.append(_check(data.support_files, data.support_files, read_image, cell.store))
            if category not in seen:
                split = data.test_dataloader().dataset
                assert isinstance(split, MVTecDataset)
                files = [path for path in (*split.paths, *split.mask_paths) if path is not None]
                notes.append(_check(files, range(len(split)), split.__getitem__, cell.store))
            seen |= {category, draw, (*draw, data.shots)}
    for note in notes:
        with suppress(OSError):  # it only saves time
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()


def _check(files: Sequence[Path], items: Iterable[Any], read: Callable[[Any], object], store: Path) -> Path:
    """Reads items unless that has been noted for their files. Returns the note: an empty file."""
    note = store / ".checked" / sha256([version_of(path) for path in files])[:32]
    if not note.exists():
        with ThreadPoolExecutor(cores()) as threads:  # decoding lets go of the interpreter
            for _ in threads.map(read, items):
                pass
    return note
