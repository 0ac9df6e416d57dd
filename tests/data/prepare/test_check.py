import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomaly_zoo.data.category import Category
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.prepare.check import files_of, inspect
from anomaly_zoo.data.prepare.duplicates import near_copies, thumbnail
from tests.conftest import write_image


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_root / "alpha", tmp_path / "copy" / "alpha")
    return tmp_path / "copy"


def report(root: Path) -> Category:
    (only,) = inspect(files_of(root / "alpha"))
    return only


def test_nothing_wrong(root: Path) -> None:
    found = report(root)
    assert (found.name, found.problems, found.notes) == ("alpha", [], [])
    assert found.found == [
        f"6 normal training images in {root}/alpha/train/good (shots up to 6)",
        f"3 normal test images in {root}/alpha/test/good",
        f"6 anomalous test images in {root}/alpha/test: 3 large, 3 small",
        f"6 masks in {root}/alpha/ground_truth: 3 large, 3 small",
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
    found = report(root)
    for part in ("000.png as an image (4 bytes)", "large/000.png has no mask", "001_mask.png has 8x8 pixels",
                 "region.json is no polygon file"):  # fmt: skip
        assert sum(part in line for line in found.problems) == 1, part
    assert len(found.problems) == 4
    for part in ("002_mask.png: the mask marks nothing", "2 sizes: 48x48 (11, as 001.png), 600x600 (2, as ",
                 "2 colour modes: colour (11, as ",
                 "small/000.png: the defect vanishes at 256 px: raise image_size and set tile_px",
                 "good/000.png: one colour all over"):  # fmt: skip
        assert sum(part in line for line in found.notes) == 1, part


def test_many_sizes(root: Path) -> None:
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (50 + number, 50, 3), dtype=np.uint8)
        write_image(root / "alpha" / "train" / "good" / f"9{number}.png", image)
    note = next(note for note in report(root).notes if "sizes" in note)
    assert note.startswith("7 sizes: 48x48 (15, as 000.png), 50x50 (1, as 90.png), 50x51 (1, as 91.png), ")
    assert note.endswith(", 2 more")


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
    shutil.rmtree(alpha / "region")
    (alpha / "region.json").write_text('{"polygons": [[[0, 0], [0.001, 0], [0, 0.001]]]}')
    assert "holds no pixel" in report(root).problems[0]


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
    assert list(inspect(files_of(root / "alpha"))) == []


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


def pairs_across(train: list[np.ndarray], test: list[np.ndarray]) -> list[tuple[int, int]]:
    pairs = near_copies([thumbnail(image) for image in train + test], [True] * len(train + test))
    assert all(i < len(train) <= j for i, j in pairs)
    return sorted((i, j - len(train)) for i, j in pairs)


@pytest.mark.parametrize("name", ["mvtec_ad/bottle", "mvtec_ad/screw", "other/hazelnut_toy", "other/magnetic_tile"])
def test_real_images_saved_again_are_found_and_no_others(shared_data: Path, name: str) -> None:
    train = [read_image(path) for path in image_files(shared_data / name / "train" / "good")[:20]]
    test = [read_image(path) for path in image_files(shared_data / name / "test" / "good")[:20]]
    assert pairs_across(train, test) == []
    again = [saved_again(image) for image in train[::4]]
    assert pairs_across(train, test + again) == [(4 * number, len(test) + number) for number in range(5)]


def test_a_product_that_always_looks_the_same_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    plate = rng.integers(60, 200, (64, 64, 3))
    images = [np.clip(plate + rng.normal(0, 8, plate.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    assert pairs_across(images[:10], images[10:]) == []
    assert pairs_across(images[:10], [*images[10:], images[3]]) == [(3, 10)]
    assert near_copies([thumbnail(images[0])], [True]) == []


def test_neither_brightness_nor_defects_hide_or_raise_an_alarm() -> None:
    rng = np.random.default_rng(0)
    plate = rng.integers(60, 200, (64, 64, 3))
    images = [
        np.clip(plate + rng.integers(-10, 10) + rng.normal(0, 8, plate.shape), 0, 255).astype(np.uint8)
        for _ in range(24)
    ]
    for image in images[18:]:
        image[20:40, 20:40] = 0  # so that most test images are far from all training images
    is_normal = [True] * 18 + [False] * 6
    thumbnails = [thumbnail(image) for image in images]
    assert [pair for pair in near_copies(thumbnails, is_normal) if min(pair) < 18] == []
    again = thumbnail((images[3] // 4 * 4).astype(np.uint8))  # fewer grey values
    assert (3, 24) in near_copies([*thumbnails, again], [*is_normal, True])


def test_one_part_seen_several_times_is_found_though_all_images_are_alike() -> None:
    rng = np.random.default_rng(0)
    part = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (300, 300))
    burst = [np.clip(part + rng.normal(0, 4, part.shape), 0, 255).astype(np.uint8) for _ in range(600)]
    pairs = near_copies([thumbnail(image) for image in burst], [True] * 600)  # more than are compared at once
    assert len(pairs) == 600 * 599 // 2
