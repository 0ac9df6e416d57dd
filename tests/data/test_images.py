import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.data.image_files import IMAGE_SUFFIXES, image_files, images_below
from anomaly_zoo.data.images import Header, decode_image, read_header, read_image, read_mask
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


PAGES = [RGB, 255 - RGB, RGB // 2]


@pytest.mark.parametrize("name", ["stack.tif", "stack.TIFF", "moving.webp", "moving.png", "stack.png as TIFF"])
def test_files_of_several_pages(tmp_path: Path, name: str) -> None:
    path = tmp_path / name.split(" ")[0]
    kind = {"tif": "TIFF", "iff": "TIFF", "IFF": "TIFF", "ebp": "WEBP", "png": "PNG"}[name[-3:]]
    options = {"lossless": True} if kind == "WEBP" else {}
    first, *rest = [Image.fromarray(page) for page in PAGES]
    first.save(path, kind, save_all=True, append_images=rest, **options)
    assert read_header(path) == Header(16, 12, 1, 3, False)
    with pytest.raises(ValueError, match=f"{path.name} holds 3 pages or frames: save each of them as a file"):
        read_image(path)
    with pytest.raises(ValueError, match=r"part holds 3 pages"):
        decode_image(path.read_bytes(), "part")


def test_thumbnails_inside_of_a_file_are_no_pages(tmp_path: Path) -> None:
    picture, small = Image.fromarray(SMOOTH), Image.fromarray(SMOOTH).resize((16, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # a reduced copy
    picture.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    picture.save(tmp_path / "preview.jpg", "MPO", save_all=True, append_images=[small])
    picture.save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[picture])
    assert [read_header(tmp_path / name).pages for name in ("pyramid.tif", "preview.jpg", "stereo.jpg")] == [1, 1, 2]
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif"), SMOOTH)
    assert np.abs(read_image(tmp_path / "preview.jpg").astype(int) - SMOOTH).mean() < 6


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_16_bit_tiff_in_which_0_is_white(tmp_path: Path, compression: str | None) -> None:
    stored = (65535 - GREY.astype(int) * 257).astype(np.uint16)
    path = write_pil(tmp_path / "a.tif", Image.fromarray(stored), compression=compression, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path), np.repeat(GREY[..., None], 3, axis=2))
    mask = write_pil(tmp_path / "b.tif", Image.fromarray(np.where(MASK, 0, 65535).astype(np.uint16)), tiffinfo={262: 0})
    np.testing.assert_array_equal(read_mask(mask), MASK)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_noted_rotations_are_applied_to_images_and_masks(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif, options = Image.Exif(), {"lossless": True} if suffix == ".webp" else {}
    exif[0x112] = orientation
    path = write_pil(tmp_path / f"a{suffix}", Image.fromarray(RGB), exif=exif, **options)
    turned = np.rot90(RGB, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}[orientation])
    expected = turned[:, ::-1] if orientation in (2, 4) else turned[::-1] if orientation in (5, 7) else turned
    np.testing.assert_array_equal(read_image(path), expected)
    brightest = expected.max(axis=2)
    np.testing.assert_array_equal(read_mask(path), brightest > (int(brightest.min()) + int(brightest.max())) / 2)
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.85])
def test_copies_that_stopped_half_way_and_go_on_with_zeros_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    large = np.asarray(cv2.resize(RGB, (256, 192)))
    compression = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    for pixels in (large, large[..., 0].astype(np.uint16) * 257) if kind == "PNG" else (large,):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, kind, **compression)
        kept = int(len(data.getvalue()) * share)
        path = tmp_path / "cut.png"
        path.write_bytes(data.getvalue()[:kept] + bytes(len(data.getvalue()) - kept))
        with pytest.raises(ValueError, match=r"cut\.png as an image .* damaged"):
            read_image(path)


def test_padding_after_the_end_and_black_images_are_fine(tmp_path: Path) -> None:
    for kind, pixels in (("JPEG", SMOOTH), ("PNG", SMOOTH), ("JPEG", SMOOTH * 0), ("WEBP", SMOOTH * 0)):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, kind)
        padding = b"" if kind == "WEBP" else bytes(4096)
        assert decode_image(data.getvalue() + padding, "a").shape == SMOOTH.shape


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(write_image(tmp_path / "a.png", RGB).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.png .*damaged"):
        read_image(tmp_path / "a.png")


def test_signed_pixels_are_refused(tmp_path: Path) -> None:
    path = write_pil(tmp_path / "a.tif", Image.fromarray(GREY // 2), tiffinfo={339: 2})
    with pytest.raises(ValueError, match=r"a\.tif has signed or 32-bit pixels: save it with 8 or 16 unsigned bits"):
        read_image(path)


def test_image_files_are_sorted_and_others_unread_files(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "c.tiff", "._a.png", "notes.txt", "Thumbs.db", "B.webp"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["B.webp", "a.JPG", "b.png", "c.tiff"]
    assert image_files(tmp_path / "missing") == []


def test_images_below_follow_links_and_end(tmp_path: Path) -> None:
    parts, outside = tmp_path / "parts", tmp_path / "outside"
    for folder in (parts / "b", parts / "@eaDir" / "c.png", parts / ".cache", parts / "#recycle", outside / "deep"):
        write_image(folder / "x.png", GREY)
    write_image(tmp_path / "beside.png", GREY)  # not inside of what is asked for
    (parts / "a.JPG").touch()
    (parts / "._a.jpg").touch()
    (parts / "notes.txt").touch()
    (parts / "c.png").symlink_to(outside / "deep" / "x.png")
    (parts / "d").symlink_to(outside)
    (parts / "e.png").symlink_to("nowhere.png")
    for folder, name in ((parts, "circle"), (parts / "b", "circle"), (outside, "back")):
        (folder / name).symlink_to(parts)
    (parts / "up").symlink_to("..")
    (parts / "z").symlink_to("b")
    found = [path.relative_to(parts).as_posix() for path in images_below(parts)]
    assert found == ["a.JPG", "b/x.png", "c.png", "d/deep/x.png", "e.png"]
    (tmp_path / "link").symlink_to(parts)
    assert [path.relative_to(tmp_path / "link").as_posix() for path in images_below(tmp_path / "link")] == found
    assert list(images_below(tmp_path / "missing")) == []
