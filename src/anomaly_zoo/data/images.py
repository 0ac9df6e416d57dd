"""Image files of every common kind into uint8 RGB, and mask files into booleans.

OpenCV decodes (fast, and the only one of the two that keeps 16-bit colour). Pillow takes over where OpenCV is wrong:
JPEG (older OpenCV returns half a picture of a truncated file, and shifts the colours of CMYK) and TIFF with an alpha
channel (OpenCV multiplies the colours by it).
"""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from anomaly_zoo.data.image_files import IMAGE_FORMATS, MAX_FILE_BYTES, MAX_IMAGE_PIXELS

_DAMAGED = "it is damaged or cut off; replace or remove it"
_UNKNOWN = f"it is damaged, or none of {', '.join(IMAGE_FORMATS)}; save it as one of them, or remove it"
_JPEG_MAGIC, _TIFF_MAGICS = b"\xff\xd8", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # tags
_EIGHT_BITS = ((np.arange(2**16) + 128) // 257).astype(np.uint8)  # a table, since arithmetic takes 12 times the memory

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors name the file, OpenCV's do not


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image of any kind as 8-bit RGB.

    Grey is repeated over the three channels, alpha is dropped, palettes are looked up, 16 bit is scaled by its full
    range (65535 becomes 255, whatever the image's own maximum), EXIF rotation is applied to JPEG, PNG and WebP.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, damaged, too large, of another format, or its pixels are neither 8 nor 16 bit.
    """
    return decode_image(_content(path), str(path), MAX_IMAGE_PIXELS)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the content of an image file as `read_image` does; errors call it by the name."""
    pixels = _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, max_pixels)
    if pixels.dtype == np.uint16:
        pixels = _EIGHT_BITS[pixels]
    if pixels.dtype != np.uint8:
        raise ValueError(f"{name} has {pixels.dtype} pixels: save it with 8 or 16 unsigned bits per channel")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels)


def image_shape(path: Path) -> tuple[int, int]:
    """Height and width of an image as `read_image` returns it, from the file's header."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=IMAGE_FORMATS) as image:
            warnings.simplefilter("ignore")
            is_turned = (
                image.format in ("JPEG", "PNG", "WEBP") and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            )
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # Pillow raises a dozen kinds for damaged files
        height, width = read_image(path).shape[:2]  # says what is wrong with the file
        return height, width


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Reads a ground-truth mask of any kind: True where any colour channel is above 0 (alpha does not count)."""
    # Most masks are grey, and reading them as colour takes twice as long
    pixels = _decode(_content(path), str(path), cv2.IMREAD_UNCHANGED, MAX_IMAGE_PIXELS)
    anomalous = np.asarray(pixels > 0)
    return anomalous if anomalous.ndim == 2 else np.asarray(anomalous.any(axis=2))


def _content(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_FILE_BYTES}: save it compressed")
    return path.read_bytes()


def _decode(data: bytes, name: str, flags: int, max_pixels: int) -> np.ndarray:
    """Decodes to `h w` or RGB `h w 3`, in the depth of the file; the flags are those of OpenCV."""
    reason, pixels = _DAMAGED, None
    with warnings.catch_warnings():  # a damaged header makes Pillow warn and go on, without the file's name
        warnings.simplefilter("ignore")
        try:
            width, height = _size(data)
            if width * height > max_pixels:
                reason = f"its {width}x{height} pixels are over the limit of {max_pixels}; cut it into parts"
            else:
                pixels = _decode_pillow(data) if data.startswith(_JPEG_MAGIC) else _decode_opencv(data, flags)
        except Image.DecompressionBombError:  # far over the limit, so that Pillow does not even tell the size
            reason = f"it has more pixels than the limit of {max_pixels}; cut it into parts"
        except UnidentifiedImageError:
            reason = _UNKNOWN if data else _DAMAGED
        except Exception as error:  # Pillow and OpenCV raise a dozen kinds for damaged files, struct.error among them
            reason += f" ({type(error).__name__})" if data else ""
    if pixels is None:
        found = f"{len(data)} bytes" if data else "an empty file"
        raise ValueError(f"cannot read {name} as an image ({found}): {reason}")
    return pixels


def _size(data: bytes) -> tuple[int, int]:
    """Width and height from the header, before anything is allocated for the pixels."""
    if data.startswith(_TIFF_MAGICS):  # Pillow refuses to open TIFF with 16-bit colour, but can read its directory
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return int(directory[_TIFF_WIDTH]), int(directory[_TIFF_HEIGHT])
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        return image.width, image.height


def _decode_opencv(data: bytes, flags: int) -> np.ndarray | None:
    # For TIFF, IMREAD_COLOR multiplies the colours by the alpha, and refuses float pixels without giving a reason
    is_tiff = data.startswith(_TIFF_MAGICS)
    pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED if is_tiff else flags)
    if pixels is None or pixels.ndim == 2:
        return pixels
    if pixels.shape[2] == 2:  # grey and alpha
        return pixels[..., 0]
    if is_tiff and pixels.shape[2] == 4 and pixels.dtype == np.uint8:
        return _decode_pillow(data)
    # cvtColor is five times as fast as slicing, but knows fewer pixel types
    is_common = pixels.dtype in (np.uint8, np.uint16) and pixels.shape[2] == 3
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if is_common else pixels[..., 2::-1]


def _decode_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
