"""Which files count as images, and which folders are looked into. The standard library is all that this file needs."""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # as Pillow names them; the content decides, not the suffix
MAX_IMAGE_PIXELS = 2**27  # larger images (16384 x 8192) are refused by their header, before memory is taken for them
MAX_FILE_BYTES = 2**31  # larger files are not even opened

_SYSTEM = {"@eadir", "@__thumb", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin",
           "recycler", "system volume information", "__macosx", "lost+found", "thumbs.db", "ehthumbs.db",
           "desktop.ini"}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a NAS, Windows or macOS keeps for itself.

    >>> [is_hidden(name) for name in ("@eaDir", "._000.png", ".Trash-1000", "Thumbs.db", "000.png")]
    [True, True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in _SYSTEM


def is_image_file(path: Path) -> bool:
    """Whether the name is that of an image; hidden ones are none (macOS leaves `._000.png` beside `000.png`)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted by name (by code point, so the same on every platform)."""
    return [path for path in _visible(folder) if is_image_file(path) and path.is_file()]


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name, without those that `is_hidden`."""
    return [path for path in _visible(folder) if path.is_dir()]


def files_below(folder: Path) -> Iterator[Path]:
    """Yields all files in a folder and the folders in it, one by one, sorted by name, without those that `is_hidden`.

    Links are followed, but every folder counts once, and none that holds this one, so that they cannot lead in circles.
    Links that lead nowhere are yielded as well, for somebody to report them.
    """
    yield from _below(folder, set(folder.resolve().parents))


def images_below(folder: Path) -> Iterator[Path]:
    """Yields the images among `files_below`."""
    return filter(is_image_file, files_below(folder))


def same_name(name: str) -> str:
    """A name in the one form (NFC) in which names are compared: macOS writes umlauts as two characters."""
    return unicodedata.normalize("NFC", name)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if not is_hidden(path.name)), key=lambda path: path.name)


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for path in _visible(folder):
        if path.is_dir():
            yield from _below(path, seen)
        else:
            yield path
