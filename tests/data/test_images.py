import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES, image_files
from anomaly_zoo.data.images import read_image, read_mask
from tests.conftest import write_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = RNG.integers(0, 256, (12, 16), dtype=np.uint8)
SMOOTH = np.asarray(cv2.resize(RGB[:3, :4], (64, 48)))  # survives lossy formats


def write_pil(path: Path, image: Image.Image, **options: object) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, {"tif": "TIFF", "tiff": "TIFF", "jpg": "JPEG"}.get(path.suffix[1:], path.suffix[1:]), **options)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG", ".TIFF"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    image = read_image(write_image(tmp_path / f"a{suffix}", RGB))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    image = read_image(write_image(tmp_path / f"a{suffix}", SMOOTH))
    assert np.abs(image.astype(int) - SMOOTH).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_fills_three_channels(tmp_path: Path, suffix: str) -> None:
    np.testing.assert_array_equal(
        read_image(write_image(tmp_path / f"a{suffix}", GREY)), np.repeat(GREY[..., None], 3, axis=2)
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_alpha_is_dropped(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    with_alpha = Image.fromarray(np.dstack([RGB, ALPHA]))
    np.testing.assert_array_equal(read_image(write_pil(tmp_path / f"a{suffix}", with_alpha, **options)), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_with_alpha(tmp_path: Path, suffix: str) -> None:
    image = read_image(write_pil(tmp_path / f"a{suffix}", Image.fromarray(np.dstack([GREY, ALPHA]))))
    np.testing.assert_array_equal(image, np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["P", "1"])
def test_palette_and_one_bit(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    np.testing.assert_array_equal(
        read_image(write_pil(tmp_path / f"a{suffix}", image)), np.asarray(image.convert("RGB"))
    )


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("P")
    np.testing.assert_array_equal(
        read_image(write_pil(tmp_path / "a.png", image, transparency=3)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_scaled_by_its_full_range(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 128, 255, 255]], np.uint8)
    image = read_image(write_image(tmp_path / f"grey{suffix}", deep))
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))
    colour = read_image(write_image(tmp_path / f"colour{suffix}", RGB.astype(np.uint16) * 257))
    np.testing.assert_array_equal(colour, RGB)


def test_16_bit_alpha_is_dropped(tmp_path: Path) -> None:
    deep = np.dstack([RGB[..., ::-1], ALPHA]).astype(np.uint16) * 257
    for suffix in (".png", ".tif"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(cv2.imencode(suffix, deep)[1].tobytes())
        np.testing.assert_array_equal(read_image(path), RGB)


def test_exif_rotation_and_cmyk(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees clockwise to view
    rotated = read_image(write_pil(tmp_path / "a.jpg", Image.fromarray(SMOOTH), exif=exif, quality=95))
    assert np.abs(rotated.astype(int) - np.rot90(SMOOTH, -1)).mean() < 6
    cmyk = read_image(write_pil(tmp_path / "b.jpg", Image.fromarray(SMOOTH).convert("CMYK"), quality=100))
    assert np.abs(cmyk.astype(int) - SMOOTH).mean() < 2


def test_names_beyond_ascii(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(write_image(tmp_path / "größe 傷 é.png", RGB)), RGB)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
@pytest.mark.parametrize("kept_ratio", [0.0, 0.3, 0.9])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_are_named(tmp_path: Path, suffix: str, kept_ratio: float) -> None:
    path = write_image(tmp_path / f"a{suffix}", SMOOTH)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept_ratio)])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.*damaged or cut off; replace or remove it"):
        read_image(path)


def test_text_is_no_image_and_float_pixels_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png as an image \(5 bytes\)"):
        read_image(text)
    Image.fromarray(GREY).save(tmp_path / "b.png", "GIF")
    with pytest.raises(ValueError, match=r"b\.png .*none of PNG, JPEG, BMP, TIFF, WEBP; save it as one of them"):
        read_image(tmp_path / "b.png")
    for dtype in (np.float32, np.int32):
        path = write_pil(tmp_path / f"{np.dtype(dtype)}.tif", Image.fromarray(GREY.astype(dtype)))
        with pytest.raises(ValueError, match=r"has (float|signed or 32-bit) pixels: save it with 8 or 16"):
            read_image(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_image(tmp_path / "missing.png")


MASK = np.zeros((12, 16), dtype=bool)
MASK[3:6, 4:9] = True


@pytest.mark.parametrize("kind", ["0/255", "0/1", "16 bit 0/1", "colour", "1 bit", "palette", "float", "alpha"])
def test_every_kind_of_mask(tmp_path: Path, kind: str) -> None:
    pixels = MASK.astype(np.uint8)
    path = tmp_path / "mask.png"
    if kind == "0/255":
        write_image(path, pixels * 255)
    elif kind == "0/1":
        write_image(path, pixels)
    elif kind == "16 bit 0/1":
        write_image(path, pixels.astype(np.uint16))
    elif kind == "colour":
        write_image(path, np.dstack([pixels * 0, pixels * 200, pixels * 0]))
    elif kind == "1 bit":
        write_pil(path, Image.fromarray(MASK))
    elif kind == "palette":
        palette = Image.fromarray(pixels).convert("P")
        palette.putpalette([0, 0, 0, 128, 0, 0])
        write_pil(path, palette)
    elif kind == "float":
        path = write_pil(tmp_path / "mask.tif", Image.fromarray(MASK.astype(np.float32)))
    else:
        write_pil(path, Image.fromarray(np.dstack([pixels * 255] * 3 + [np.full_like(pixels, 255)])))
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, MASK)


def test_image_files_are_sorted_and_others_unread_files(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "c.tiff", "._a.png", "notes.txt", "Thumbs.db", "B.webp"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["B.webp", "a.JPG", "b.png", "c.tiff"]
    assert image_files(tmp_path / "missing") == []
