"""Fails before any long work: the weights, the method's numbers, the supports, every image that will be read.

What has been checked is noted in the store, by the files' names, sizes and times, and not read once more for that.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from anomaly_zoo.data.category import files_in, refuse, tell
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.prepare.check import inspect
from anomaly_zoo.grid.cells import Cell, sha256, version_of
from anomaly_zoo.grid.worker import warm_up


def check(cells: Sequence[Cell], console: Console) -> None:
    """Builds a cell of every method and backbone, and reads every image that has not been checked before.

    A ValueError for a wrong number, weights that cannot be loaded, or what `python -m anomaly_zoo.data check` calls a
    problem; an OSError if something is missing.
    """
    for cell in {(cell.method, cell.config["backbone"]["name"]): cell for cell in reversed(cells)}.values():
        warm_up(cell.config)
    supports: dict[tuple[Path, str, Path], set[Path]] = {}
    seen: set[object] = set()
    for cell in sorted(cells, key=lambda cell: -cell.config["data"]["shots"]):  # a support holds the smaller ones
        data = MVTecDataModule(**cell.config["data"], seed=cell.config["seed_everything"])
        draw = (data.root, data.category, data.seed, data.shots)
        if draw not in seen:
            data.setup("test")
            supports.setdefault((data.root, data.category, cell.store), set()).update(data.support_files)
        seen.add(draw)
    noted: dict[Path, list[str]] = {}
    for (root, category, store), support in supports.items():
        with console.status(f"Checking the images of {escape(category)}"):
            noted.update([_check(root, category, support, store)])
    for file, notes in noted.items():
        tell(notes)
        with suppress(OSError):  # it only saves time
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(notes), encoding="utf-8", errors="backslashreplace")


def _check(root: Path, category: str, support: set[Path], store: Path) -> tuple[Path, list[str]]:
    """Reads the images and masks of a category, unless that is noted; returns where to note it, and doubts."""
    files = {
        f"{category}/{place}": path
        for place, path in files_in(root / category).items()
        if not place.startswith("train/") or path in support
    }
    noted = store / ".checked" / sha256([version_of(path) for path in files.values()])[:32]
    with suppress(OSError):
        return noted, noted.read_text(encoding="utf-8").splitlines()
    (report,) = inspect(files)
    refuse(report.problems, root)
    return noted, report.notes
