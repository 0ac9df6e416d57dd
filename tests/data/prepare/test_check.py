import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.prepare.check import Report, broken_links, files_of, inspect, unread_files
from anomaly_zoo.data.prepare.duplicates import near_duplicates, thumbnail
from tests.conftest import write_image


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_root / "alpha", tmp_path / "copy" / "alpha")
    return tmp_path / "copy"


def report(root: Path) -> Report:
    (only,) = inspect(files_of(root))
    return only


def test_nothing_wrong(root: Path) -> None:
    found = report(root)
    assert (found.category, found.problems, found.notes) == ("alpha", [], [])
    assert found.found == [
        "6 normal training images: shots up to 6",
        "3 normal and 6 anomalous test images",
        "  3 large",
        "  3 small",
        "6 masks",
        "all images 48x48",
        "all images colour",
    ]


def test_everything_wrong(root: Path) -> None:
    alpha = root / "alpha"
    (alpha / "train" / "good" / "000.png").write_bytes(b"junk")
    (alpha / "ground_truth" / "large" / "000_mask.png").unlink()
    write_image(alpha / "ground_truth" / "large" / "001_mask.png", np.ones((8, 8), np.uint8))
    write_image(alpha / "ground_truth" / "large" / "002_mask.png", np.zeros((48, 48), np.uint8))
    write_image(alpha / "test" / "good" / "000.png", np.zeros((600, 600), np.uint8))
    dot = np.zeros((600, 600), np.uint8)
    dot[300, 300] = 255
    write_image(alpha / "test" / "small" / "000.png", dot)
    write_image(alpha / "ground_truth" / "small" / "000_mask.png", dot)
    (alpha / "region.json").write_text("[]")
    (alpha / "train" / "good" / "photo.heic").touch()
    found = report(root)
    for part in ("000.png as an image (4 bytes)", "large/000.png has no mask", "001_mask.png has 8x8 pixels",
                 "region.json is no polygon file"):  # fmt: skip
        assert sum(part in line for line in found.problems) == 1, part
    assert len(found.problems) == 4
    for part in ("002_mask.png marks nothing", "2 sizes: 48x48 (12), 600x600 (2, as ", "2 colour modes: colour (12),",
                 "1 defect vanishes at 256 px (000.png): raise image_size and set tile_px"):  # fmt: skip
        assert sum(part in line for line in found.notes) == 1, part
    assert unread_files(root, files_of(root)) == ["1 file ending in .heic: no images, passed over"]


def test_many_sizes(root: Path) -> None:
    for number in range(6):
        write_image(root / "alpha" / "train" / "good" / f"9{number}.png", np.full((50 + number, 50, 3), 9, np.uint8))
    note = next(note for note in report(root).notes if "sizes" in note)
    assert note == "7 sizes: 48x48 (15), 50x50 (1), 50x51 (1), 50x52 (1), 50x53 (1) and 2 more"


def test_what_is_read_by_nobody(root: Path) -> None:
    alpha = root / "alpha"
    assert unread_files(root, files_of(root)) == broken_links(root) == []
    for name in ("validation/0.png", "validation/1.png", "train/good/monday/0.png", ".cache/0.png"):
        write_image(alpha / name, np.zeros((48, 48), np.uint8))
    (alpha / "train" / "good" / "gone.png").symlink_to("nowhere.png")
    assert unread_files(root, files_of(root)) == [
        f"1 file directly in {alpha}/train/good/monday: passed over, since no images are looked for there",
        f"2 files directly in {alpha}/validation: passed over, since no images are looked for there",
    ]
    assert broken_links(root) == [f"{alpha}/train/good/gone.png is a link to nowhere.png, which is not there"]


def test_masks_that_belong_to_no_image(root: Path) -> None:
    for number in range(7):
        write_image(root / "alpha" / "ground_truth" / "large" / f"9{number}_mask.png", np.ones((48, 48), np.uint8))
    notes = report(root).notes
    assert notes[0].endswith("large/90_mask.png belongs to no image: is its name right?")
    assert notes[5:] == ["2 more masks belong to no image"]


def test_regions_are_read(root: Path) -> None:
    alpha = root / "alpha"
    for path in [p for split in ("train", "test") for p in sorted((alpha / split).rglob("*.png"))]:
        write_image(alpha / "region" / path.relative_to(alpha), np.ones((48, 48), np.uint8))
    assert report(root).problems == []
    write_image(alpha / "region" / "test" / "large" / "000.png", np.ones((9, 9), np.uint8))
    write_image(alpha / "region" / "test" / "large" / "001.png", np.zeros((48, 48), np.uint8))
    (alpha / "region" / "test" / "large" / "002.png").write_bytes(b"junk")
    (alpha / "region" / "train" / "good" / "000.png").unlink()
    parts = ("000.png has no region", "000.png has 9x9 pixels", "001.png holds no pixel", "002.png as an image")
    assert all(part in problem for part, problem in zip(parts, report(root).problems, strict=True))


def test_incomplete_categories(root: Path) -> None:
    shutil.rmtree(root / "alpha" / "test" / "good")
    assert "no normal test images: image metrics are undefined" in report(root).notes
    shutil.rmtree(root / "alpha" / "test")
    shutil.rmtree(root / "alpha" / "ground_truth")
    found = report(root)
    assert "no masks: image metrics only" in found.found
    assert "no anomalous images: fit, predict and maps work, metrics are undefined" in found.notes
    for path in image_files(root / "alpha" / "train" / "good"):
        path.unlink()
    assert list(inspect(files_of(root))) == []


def saved_again(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])


def test_a_test_image_in_the_training_split_is_found(root: Path) -> None:
    image = read_image(root / "alpha" / "train" / "good" / "002.png")
    write_image(root / "alpha" / "test" / "good" / "copy.png", image)
    (note,) = report(root).notes
    assert note.endswith("look like one image, in training and test")
    assert "002.png" in note
    assert "copy.png" in note


@pytest.mark.parametrize("name", ["mvtec_ad/bottle", "mvtec_ad/screw", "other/hazelnut_toy", "other/magnetic_tile"])
def test_real_images_saved_again_are_found_and_no_others(shared_data: Path, name: str) -> None:
    train = [read_image(path) for path in image_files(shared_data / name / "train" / "good")[:20]]
    test = [read_image(path) for path in image_files(shared_data / name / "test" / "good")[:20]]
    thumbnails = [[thumbnail(image) for image in images] for images in (train, test)]
    assert near_duplicates(*thumbnails) == []
    again = [thumbnail(saved_again(image)) for image in train[::4]]
    pairs = near_duplicates(thumbnails[0], thumbnails[1] + again)
    assert sorted(pairs) == [(4 * number, len(test) + number) for number in range(5)]


def test_a_product_that_always_looks_the_same_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    plate = rng.integers(60, 200, (64, 64, 3))
    images = [np.clip(plate + rng.normal(0, 8, plate.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    thumbnails = [thumbnail(image) for image in images]
    assert near_duplicates(thumbnails[:10], thumbnails[10:]) == []
    assert near_duplicates(thumbnails[:10], [*thumbnails[10:], thumbnails[3]]) == [(3, 10)]
    assert near_duplicates([], thumbnails) == []


def test_neither_brightness_nor_defects_hide_or_raise_an_alarm() -> None:
    rng = np.random.default_rng(0)
    plate = rng.integers(60, 200, (64, 64, 3))
    images = [
        np.clip(plate + rng.integers(-10, 10) + rng.normal(0, 8, plate.shape), 0, 255).astype(np.uint8)
        for _ in range(24)
    ]
    for image in images[18:]:
        image[20:40, 20:40] = 0  # so that most test images are far from all training images
    thumbnails = [thumbnail(image) for image in images]
    assert near_duplicates(thumbnails[:14], thumbnails[14:]) == []
    again = thumbnail((images[3] // 4 * 4).astype(np.uint8))  # fewer grey values
    assert near_duplicates(thumbnails[:14], [*thumbnails[14:], again]) == [(3, 10)]
