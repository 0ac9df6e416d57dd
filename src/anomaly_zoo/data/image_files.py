"""Which files count as images, and how large they may be. The standard library is all that this file needs."""

from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File name endings, in lower case, that count as images."""

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""The formats that are decoded, as Pillow names them. The content of a file decides, not its suffix."""

MAX_IMAGE_PIXELS = 2**27
"""Larger images (16384 x 8192) are refused by their header, before memory is taken for them: files can lie."""

MAX_FILE_BYTES = 2**31
"""Larger files are not even opened."""


def is_image_file(path: Path) -> bool:
    """Whether the name is that of an image; hidden ones are none (macOS leaves `._000.png` beside `000.png`)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted by name (by code point, so the same on every platform)."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if is_image_file(p) and p.is_file()), key=lambda path: path.name)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name, without hidden ones."""
    if not folder.is_dir():
        return []
    hidden = (".", "__MACOSX")
    return sorted(
        (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(hidden)), key=lambda path: path.name
    )
