"""Files through a model, one batch at a time: memory does not grow with their number. Needs no torch itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from anomaly_zoo.deploy.outputs import Inspection, PredictionWriter
from anomaly_zoo.deploy.pictures import Scale


@runtime_checkable
class Inspector(Protocol):
    """What can inspect images: a model folder in torch, or an exported graph in onnxruntime."""

    @property
    def threshold(self) -> float:
        """Image score above which an image counts as anomalous."""

    @property
    def scale(self) -> Scale:
        """What the colours of its maps mean."""

    def read(self, path: Path) -> np.ndarray:
        """Reads a file as uint8 RGB `h w 3`; ValueError or OSError if that is impossible."""

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        """Scores images of any sizes; what it says of one does not depend on the others."""


def inspect_files(
    inspector: Inspector,
    paths: Iterable[Path],
    writer: PredictionWriter,
    batch_size: int = 8,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Inspects files and writes what is found; a file that cannot be read is written down and passed over.

    Args:
        inspector: the model.
        paths: consumed `batch_size` at a time.
        writer: where to.
        batch_size: images in memory at once.
        progress: told after every batch how many files are done.
    """
    done = 0
    for batch in _batches(paths, batch_size):
        images = [(path, _read(inspector, path)) for path in batch]
        readable = [image for _, image in images if isinstance(image, np.ndarray)]
        found = iter(inspector.inspect(readable) if readable else [])
        for path, image in images:
            if isinstance(image, np.ndarray):
                writer.write(path, image, next(found))
            else:
                writer.write_unreadable(path, image)
        done += len(batch)
        if progress is not None:
            progress(done)


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
