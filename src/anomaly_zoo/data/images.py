"""The one reader of image files: any common kind into uint8 RGB, and masks into booleans. Needs NumPy and Pillow alone.

torch, onnxruntime and `check` all read with it, so that they agree on which files can be read, and on every pixel.
"""

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_zoo.data.image_files import IMAGE_FORMATS, MAX_FILE_BYTES, MAX_IMAGE_PIXELS

_DAMAGED = "it is damaged or cut off; replace or remove it"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_UNKNOWN = f"it is damaged, or none of {', '.join(IMAGE_FORMATS)}; save it as one of them, or remove it"
_ORIENTATION, _PHOTOMETRIC, _SUBFILE, _SAMPLE_FORMAT = 274, 262, 254, 339  # tags
_REDUCED_OR_MASK = 1 | 4  # of the third: a thumbnail, or a mask for transparency, and no page
_NUMBERS = ("I", "F", "I;16", "I;16B", "I;16L")  # modes of more than 8 bits
_EIGHT_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)  # a table, since arithmetic takes 12 times the memory
_MOST_LABELS, _LARGEST_LABEL = 16, 32
_ZEROS = 32  # so many at the end of a file are suspect


class RefusedError(ValueError):
    """What a file shows would be a guess."""


class Header(NamedTuple):
    """What a file says of its picture before any pixel is decoded."""

    width: int
    height: int
    orientation: int  # how the camera noted that the picture is to be turned: 1 (not at all) to 8
    pages: int  # of a TIFF, or frames of an animated WebP or PNG
    is_deep: bool  # whether it has 16 bits per channel


def read_image(path: Path) -> np.ndarray:
    """Reads an image of any kind as 8-bit RGB, `h w 3`.

    Grey is repeated over the three channels, alpha is dropped, palettes are looked up. 16-bit grey is scaled by its
    full range (65535 becomes 255), of 16-bit colour the high byte is kept. TIFF in which 0 is white is inverted, and a
    noted rotation is applied. ValueError if the file is damaged, too large, of another format or of several pages, or
    if nobody knows what is white in it (signed, 32 bits, fractions).
    """
    return decode_image(_content(path), str(path), MAX_IMAGE_PIXELS)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decodes the content of an image file as `read_image` does; errors call it by the name."""
    with _opened(io.BytesIO(data), name, max_pixels) as image:
        _refuse_pages(image, name)
        return _rgb(image, name)


def read_header(path: Path) -> Header:
    """Reads what a file says of itself; the errors are those of `read_image`, as far as they show there."""
    with path.open("rb") as file, _opened(file, str(path), MAX_IMAGE_PIXELS) as image:
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own would decode all of it
        turned = orientation if orientation in range(1, 9) else 1
        return Header(image.width, image.height, turned, len(_pages(image)), _is_deep(image))


def image_shape(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it, from the file's header."""
    header = read_header(path)
    return (header.width, header.height) if header.orientation > 4 else (header.height, header.width)


def is_nearly_black(path: Path, image: np.ndarray) -> bool:
    """Whether a 16-bit file uses less than half of its range, as files of 10- and 12-bit cameras do."""
    num_bright = int(np.count_nonzero(image >= 128))  # a few pixels may be hot
    return num_bright <= image.size // 1000 and read_header(path).is_deep


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask of any kind as booleans, `h w`; see `read_mask_with_remark`."""
    return read_mask_with_remark(path)[0]


def read_mask_with_remark(path: Path) -> tuple[np.ndarray, str]:
    """Reads a mask, and says in half a sentence what was doubtful about it ("" if nothing was).

    Two values, or a few that fill areas of their own (labels), are cut above 0. More of them, as lossy formats and soft
    edges leave, are cut at half of their range. Of colours the brightest channel counts, alpha does not.
    """
    with _opened(io.BytesIO(_content(path)), str(path), MAX_IMAGE_PIXELS) as image:
        _refuse_pages(image, str(path))
        if _is_deep(image) and image.mode not in _NUMBERS:
            raise RefusedError(f"the mask {path} has 16-bit colours: save it as 8-bit grey")
        values = np.nan_to_num(_values(image))
        alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else np.zeros((1, 1))
        is_lossless = image.format in ("PNG", "TIFF", "BMP")
    values = values if values.ndim == 2 else values.max(axis=2)
    mask, remark = _cut(values, may_be_labels=is_lossless)
    if (alpha != alpha[0, 0]).any():
        if (values == values[0, 0]).all():
            raise RefusedError(f"the mask {path} is drawn in its alpha channel, which does not count: save it as grey")
        remark = remark or "has an alpha channel, which does not count"
    return mask, remark


def _cut(values: np.ndarray, may_be_labels: bool) -> tuple[np.ndarray, str]:
    """What a mask marks, and a remark on it."""
    low, high = float(values.min()), float(values.max())
    if low == high or (low == 0 and ((values == low) | (values == high)).all()):
        return values > 0, ""
    levels = np.unique(values)
    shown = f"holds {len(levels)} values from {low:g} to {high:g}"
    may_be_labels = may_be_labels and low == 0 and len(levels) <= _MOST_LABELS
    if may_be_labels and (high <= _LARGEST_LABEL or _are_areas(values, levels)):
        return values > 0, f"{shown}: all above 0 count as anomalous"
    return values > (low + high) / 2, f"{shown}, as of a lossy format or soft edges: cut at half of that range"


def _are_areas(values: np.ndarray, levels: np.ndarray) -> bool:
    """Whether every value has a pixel whose four neighbours have it too; those of soft edges have none."""
    inner = values[1:-1, 1:-1]
    inside = inner[(inner == values[:-2, 1:-1]) & (inner == values[2:, 1:-1])
                   & (inner == values[1:-1, :-2]) & (inner == values[1:-1, 2:])]  # fmt: skip
    return bool(np.isin(levels, inside).all())


def _content(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_FILE_BYTES}: save it compressed")
    return path.read_bytes()


@contextmanager
def _opened(file: io.BufferedIOBase, name: str, max_pixels: int) -> Iterator[Any]:
    """The picture in a file; what goes wrong with it inside becomes a ValueError with the file's name."""
    try:
        with warnings.catch_warnings():  # a damaged header makes Pillow warn and go on, without the file's name
            warnings.simplefilter("ignore")
            if isinstance(file, io.BytesIO) and not _is_whole(file.getvalue()):
                raise EOFError
            with Image.open(cast(IO[bytes], file), formats=IMAGE_FORMATS) as image:
                if image.width * image.height > max_pixels:
                    shown = f"its {image.width}x{image.height} pixels are over the limit of {max_pixels}"
                    raise RefusedError(f"cannot read {name} as an image: {shown}; cut it into parts")
                yield image
            return
    except RefusedError:
        raise
    except Image.DecompressionBombError:  # far over the limit, so that Pillow does not even tell the size
        reason = f"it has more pixels than the limit of {max_pixels}; cut it into parts"
    except UnidentifiedImageError:
        file.seek(0)
        reason = f"it is of a rare kind, or {_DAMAGED[6:]}" if file.read(4) in _TIFF else _UNKNOWN
    except Exception as error:  # Pillow raises a dozen kinds for damaged files, struct.error among them
        reason = f"{_DAMAGED} ({type(error).__name__})"
    size = file.seek(0, io.SEEK_END)
    raise ValueError(f"cannot read {name} as an image ({size} bytes): {reason if size else _DAMAGED}") from None


def _is_whole(data: bytes) -> bool:
    """Whether nothing is lost that Pillow does not miss: a copy that stopped half-way may go on with zeros."""
    if data.startswith(b"\x89PNG"):
        start, kind = 8, b""
        while kind != b"IEND":
            length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
            end = start + 8 + length
            is_right = zlib.crc32(data[start + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
            if not kind or (kind[:1].isupper() and not is_right):  # lower case is for what may be left out
                return False
            start = end + 4
    num_zeros = len(data) - len(data.rstrip(b"\0"))
    if num_zeros >= _ZEROS and data.startswith(b"\xff\xd8"):  # a JPEG needs an end after the last start of a scan
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    return num_zeros < max(_ZEROS, len(data) // 8) or not data.startswith(b"RIFF")  # a black WebP has up to 1 in 16


def _refuse_pages(image: Any, name: str) -> None:
    if (number := len(_pages(image))) > 1:
        raise RefusedError(f"{name} holds {number} pages or frames: save each of them as a file")


def _pages(image: Any) -> list[int]:
    """Positions of the pages or frames; thumbnails that TIFF and photos of several sizes hold beside them are none."""
    pages, size = [0], image.size
    for frame in range(1, getattr(image, "n_frames", 1)):
        if image.format in ("TIFF", "MPO"):
            image.seek(frame)
        is_tiff = image.format == "TIFF"
        if not (image.tag_v2.get(_SUBFILE, 0) & _REDUCED_OR_MASK if is_tiff else image.size != size):
            pages.append(frame)
    image.seek(0)
    return pages


def _is_deep(image: Any) -> bool:
    modes = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile]
    return image.format in ("PNG", "TIFF") and any("16" in mode for mode in modes)


def _values(image: Any) -> np.ndarray:
    """Decodes grey `h w` in its own depth, or 8-bit RGB `h w 3`, turned as the camera noted."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode not in _NUMBERS:
        return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    is_inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0 and image.mode != "F"
    return 65535 - np.asarray(image) if is_inverted else np.asarray(image)


def _rgb(image: Any, name: str) -> np.ndarray:
    is_signed = image.format == "TIFF" and 2 in image.tag_v2.get(_SAMPLE_FORMAT, ())
    if is_signed or image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "signed or 32-bit"
        raise RefusedError(f"{name} has {kind} pixels: save it with 8 or 16 unsigned bits per channel")
    values = _values(image)
    if values.dtype != np.uint8:
        values = _EIGHT_BITS[values]
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
