"""Which image files to inspect: named ones, folders and patterns once, or a folder that a camera keeps writing into."""

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES


def find_images(sources: Sequence[str]) -> Iterator[Path]:
    """Yields image files one by one, so that a folder may hold any number of them.

    Args:
        sources: files, folders (with all folders inside them, sorted by name) and patterns such as `shots/*.png`.

    Raises:
        FileNotFoundError: a source is neither a file nor a folder, and no pattern that any file matches.
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
    is reported and not lost. A file that changes after it was yielded is a new image.

    Args:
        folder: where a camera writes.
        known: paths to pass over, such as those of an earlier run.
        is_whole: whether a file can be read.
        should_stop: asked between two looks.
        interval_s: between two looks, in seconds.
        patience_s: how long an unreadable file may stay unchanged, in seconds.
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
        if path.is_dir() and not path.is_symlink():  # a link could lead in circles
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
