import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.regions import Regions, paint_outside
from tests.conftest import write_image
from tests.data.test_mvtec import batches

HUGE_NUMBER = f'{{"polygons": [[[0, 0], [1, 1], [0, 1{"0" * 400}]]]}}'
HALF = [[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]]


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_root / "alpha", tmp_path / "copy" / "alpha")
    return tmp_path / "copy"


def write_polygons(category: Path, polygons: object) -> None:
    (category / "region.json").write_text(json.dumps({"polygons": polygons}))


def write_masks(category: Path, mask: np.ndarray) -> None:
    for split in ("train", "test"):
        for path in sorted((category / split).rglob("*.png")):
            write_image(category / "region" / path.relative_to(category), mask.astype(np.uint8) * 255)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 30), (64, 640)])
def test_polygons_against_points_inside(root: Path, height: int, width: int) -> None:
    polygons = [[[0.1, 0.2], [0.8, 0.15], [0.6, 0.9]], [[0.5, 0.1], [0.95, 0.1], [0.95, 0.6]]]
    write_polygons(root / "alpha", polygons)
    region = Regions(root / "alpha").mask(root / "any.png", height, width)
    y, x = np.mgrid[:height, :width]
    centres = np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1).reshape(-1, 2)
    expected = np.zeros(len(centres), dtype=bool)
    for polygon in polygons:  # even-odd rule, a ray to the right
        inside = np.zeros(len(centres), dtype=bool)
        for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            crosses = (y1 > centres[:, 1]) != (y2 > centres[:, 1])
            at = x1 + (centres[:, 1] - y1) / (y2 - y1 + 1e-12) * (x2 - x1)
            inside ^= crosses & (centres[:, 0] < at)
        expected |= inside
    assert np.count_nonzero(region != expected.reshape(height, width)) <= 1  # a pixel centre on an edge


def test_outside_is_painted_and_inside_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    region = np.zeros((6, 8), dtype=bool)
    region[1:3, 2:5] = True
    painted = paint_outside(image, region)
    np.testing.assert_array_equal(painted[region], image[region])
    assert (painted[~region] == 128).all()


@pytest.mark.parametrize("kind", ["polygons", "masks"])
def test_what_is_outside_has_no_influence_at_all(root: Path, kind: str) -> None:
    half = np.zeros((48, 48), dtype=bool)
    half[:, :24] = True
    if kind == "polygons":
        write_polygons(root / "alpha", HALF)
    else:
        write_masks(root / "alpha", half)
    plain = MVTecDataModule(root, "alpha", shots=2, image_size=48)
    first, support = batches(plain.test_dataloader()), plain.support(2)
    for split in ("train", "test"):
        for path in sorted((root / "alpha" / split).rglob("*.png")):
            image = read_image(path)
            image[:, 24:] = 255 - image[:, 24:]
            write_image(path, image)
    changed = MVTecDataModule(root, "alpha", shots=2, image_size=48)
    np.testing.assert_array_equal(support.image, changed.support(2).image)
    for one, two in zip(first, batches(changed.test_dataloader()), strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert one.region is not None
        np.testing.assert_array_equal(one.region[0, :, :24], True)
        np.testing.assert_array_equal(one.region[0, :, 24:], False)


def test_a_byte_order_mark_is_no_mistake(root: Path) -> None:
    (root / "alpha" / "region.json").write_text(json.dumps({"polygons": HALF}), encoding="utf-8-sig")
    assert Regions(root / "alpha").exist


def test_without_regions_nothing_changes(tiny_root: Path) -> None:
    assert not Regions(tiny_root / "alpha").exist
    assert all(
        batch.region is None for batch in batches(MVTecDataModule(tiny_root, "alpha", shots=1).test_dataloader())
    )


def test_mistakes_are_named(root: Path) -> None:
    category = root / "alpha"
    image = category / "test" / "large" / "000.png"
    for content in (
        "{",
        '{"polygon": []}',
        '{"polygons": []}',
        '{"polygons": [[[0, 0], [1, 1]]]}',
        "[]",
        "null",
        HUGE_NUMBER,
    ):
        (category / "region.json").write_text(content)
        with pytest.raises(ValueError, match=r"region\.json .*write \{\"polygons\""):
            Regions(category)
    write_polygons(category, [[[0, 0], [1.5, 0], [1, 1]]])
    with pytest.raises(ValueError, match="corners or more, inside the image"):
        Regions(category)
    write_polygons(category, [[[0.9, 0.9], [0.9, 0.9], [0.9, 0.9]]])
    write_masks(category, np.ones((48, 48), dtype=bool))
    with pytest.raises(ValueError, match=r"both region\.json and the folder region: keep one"):
        Regions(category)
    (category / "region.json").unlink()
    write_image(category / "region" / "test" / "large" / "000.png", np.ones((9, 9), np.uint8))
    dataset = MVTecDataset(root, "alpha", (32, 32))
    index = dataset.paths.index(image)
    with pytest.raises(ValueError, match=r"region .*000\.png has 9x9 pixels, but its image .* has 48x48"):
        dataset[index]
    write_image(category / "region" / "test" / "large" / "000.png", np.zeros((48, 48), np.uint8))
    with pytest.raises(ValueError, match=r"holds no pixel of .*large/000\.png"):
        dataset[index]
    (category / "region" / "test" / "large" / "000.png").unlink()
    with pytest.raises(
        ValueError, match=r"large/000\.png has no region, though .* add 000\.png beside the others \(or move"
    ):
        MVTecDataset(root, "alpha", (32, 32))[index]
