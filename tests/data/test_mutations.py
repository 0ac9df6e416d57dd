"""300 damaged image files and 100 damaged archives: read, or refused by a message that names the file."""

import io
import resource
import struct
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.data import images
from anomaly_zoo.data.image_files import IMAGE_SUFFIXES, MAX_FILE_BYTES, MAX_IMAGE_PIXELS
from anomaly_zoo.data.images import read_image, read_mask
from anomaly_zoo.data.prepare.archives import ArchiveError, unpack
from tests.data.prepare.test_archives import pack
from tests.data.test_images import SMOOTH, write_pil

NUM_IMAGES, NUM_ARCHIVES = 300, 100
SECONDS_EACH = 5.0  # of the processor; typically a millisecond
MIB_ALL = 1024  # of all of them; typically 10


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Cuts off, flips bits, overwrites, repeats or removes a part, or puts the largest numbers into the header."""
    changed = bytearray(data)
    kind = rng.integers(6)
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    if kind == 1:
        for position in rng.integers(len(data), size=int(rng.integers(1, 20))):
            changed[position] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        start = int(rng.integers(len(data)))
        changed[start : start + 30] = rng.bytes(30)
    elif kind == 3:
        start = int(rng.integers(len(data)))
        changed[start:start] = changed[start : start + 200]
    elif kind == 4:
        start = int(rng.integers(len(data)))
        del changed[start : start + int(rng.integers(1, 200))]
    else:
        start = int(rng.integers(4, 64))
        changed[start : start + 4] = b"\xff\xff\xff\x7f"
    return bytes(changed)


def originals(folder: Path) -> list[bytes]:
    """One file of every kind that is supported."""
    picture = Image.fromarray(SMOOTH)
    alpha = Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]]))
    exif = Image.Exif()
    exif[0x112] = 6
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("a.png", picture, {}),
        ("a.png", alpha, {}),
        ("a.png", picture.convert("P"), {"transparency": 3}),
        ("a.jpg", picture, {"exif": exif}),
        ("a.jpg", picture.convert("CMYK"), {}),
        ("a.bmp", picture, {}),
        ("a.tif", picture, {"compression": "tiff_lzw"}),
        ("a.tif", alpha, {}),
        ("a.tif", Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257), {}),
        ("a.webp", alpha, {"lossless": True}),
    ]
    files = [write_pil(folder / name, image, **options).read_bytes() for name, image, options in kinds]
    return files + [cv2.imencode(suffix, SMOOTH.astype(np.uint16) * 257)[1].tobytes() for suffix in (".png", ".tif")]


def test_mutated_images(tmp_path: Path) -> None:
    rng, files, before = np.random.default_rng(0), originals(tmp_path), peak_mib()
    outcomes = {"read": 0, "refused": 0}
    messages: list[tuple[str, str]] = []
    for number in range(NUM_IMAGES):
        suffix = IMAGE_SUFFIXES[int(rng.integers(len(IMAGE_SUFFIXES)))]  # mostly the wrong one
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(mutate(files[number % len(files)], rng))
        for read in (read_image, read_mask):
            start = time.process_time()
            try:
                pixels = read(path)
                assert pixels.size <= 3 * MAX_IMAGE_PIXELS
                outcomes["read"] += 1
            except ValueError as error:
                messages.append((str(path), str(error)))
                outcomes["refused"] += 1
            assert time.process_time() - start < SECONDS_EACH
    assert all(name in message for name, message in messages)
    assert peak_mib() - before < MIB_ALL
    assert min(outcomes.values()) > NUM_IMAGES / 4  # else the mutations are too mild or too wild to test anything


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_image_bombs_are_refused_by_their_header(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("L", (3000, 2000)).save(buffer, kind)
    path = tmp_path / "bomb.png"
    path.write_bytes(buffer.getvalue())
    assert read_image(path).shape == (2000, 3000, 3)
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 3000 * 2000 - 1)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.png .*its 3000x2000 pixels are over the limit of 5999999; cut it"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(16_384, 8_193), (15_000, 15_000), (60_000, 60_000)])
def test_huge_images_are_told_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "huge.png"
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDATx", b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match=r"huge\.png .*(over|than) the limit of 134217728; cut it into parts"):
        read_image(path)


@pytest.mark.parametrize("name", ["cut.png", "cut.tif", "cut.webp", "cut.bmp", "cut.jpg"])
def test_the_message_is_all_that_is_said(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_pil(tmp_path / name, Image.fromarray(SMOOTH)).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{name} .*damaged"):
        read_image(tmp_path / name)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_huge_files_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.bmp"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    with pytest.raises(ValueError, match=r"huge\.bmp has 2147483649 bytes, more than"):
        read_image(path)


def test_mutated_archives(tmp_path: Path) -> None:
    rng, before = np.random.default_rng(1), peak_mib()
    members = {f"set/{number}.png": rng.bytes(300) + bytes(300) for number in range(8)}
    files = [pack(tmp_path / f"a{suffix}", members).read_bytes() for suffix in (".zip", ".tar", ".tar.gz", ".tar.xz")]
    outcomes = {"unpacked": 0, "refused": 0}
    messages: list[tuple[str, str]] = []
    for number in range(NUM_ARCHIVES):
        case = tmp_path / "cases" / str(number)
        case.mkdir(parents=True)
        archive = case / "set.tar"
        archive.write_bytes(mutate(files[number % len(files)], rng))
        start = time.process_time()
        try:
            unpack(archive, case / "out")
            outcomes["unpacked"] += 1
            expected = [case / "out", archive]
        except ArchiveError as error:
            messages.append((str(archive), str(error)))
            outcomes["refused"] += 1
            expected = [archive]
        assert time.process_time() - start < SECONDS_EACH
        assert sorted(case.iterdir()) == expected  # nothing beside the target, and nothing half-done
    assert all(name in message for name, message in messages)
    assert not (tmp_path / "cases" / "set").exists()
    assert peak_mib() - before < MIB_ALL
    assert outcomes["refused"] > NUM_ARCHIVES / 2
    assert outcomes["unpacked"] > 0
