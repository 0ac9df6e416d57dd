"""Files in a dataset that nothing reads: they may have been meant to be images of it."""

from collections import Counter
from pathlib import Path

from anomaly_zoo.data.images import IMAGE_SUFFIXES
from anomaly_zoo.data.tree import Files

_KNOWN = (*IMAGE_SUFFIXES, ".json", ".txt", ".sha256", ".md", ".csv", ".db")


def passed_over(folder: Path, files: Files) -> list[str]:
    """Counts what is passed over, hidden files aside: other kinds of files by their suffix, and images by their folder.

    Args:
        folder: the dataset, or a folder of one's own.
        files: what is read of it.

    Returns:
        A sentence each.
    """
    read = {path.absolute() for path in files.values() if isinstance(path, Path)}
    suffixes: Counter[str] = Counter()
    folders: Counter[Path] = Counter()
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        if suffix not in _KNOWN:
            suffixes[suffix or "nothing"] += 1
        elif suffix in IMAGE_SUFFIXES and path.absolute() not in read:
            folders[path.parent] += 1
    said = [f"{_files(number)} ending in {suffix}: no images, passed over" for suffix, number in suffixes.items()]
    return said + [
        f"{_files(number)} directly in {parent}: passed over, since no images are looked for there"
        for parent, number in folders.items()
    ]


def broken_links(folder: Path) -> list[str]:
    """Names the links that lead nowhere, which would count as no file at all.

    Args:
        folder: the dataset, or a folder of one's own.

    Returns:
        A sentence each.
    """
    links = sorted(path for path in folder.rglob("*") if path.is_symlink() and not path.exists())
    return [f"{path} is a link to {path.readlink()}, which is not there" for path in links]


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
