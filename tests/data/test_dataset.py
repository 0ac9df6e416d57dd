import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.transforms import resize
from tests.conftest import write_image


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of alpha that a test may change."""
    shutil.copytree(tiny_root / "alpha", tmp_path / "copy" / "alpha")
    return tmp_path / "copy"


def test_items(tiny_root: Path) -> None:
    dataset = MVTecDataset(tiny_root, "alpha", (32, 32))
    assert len(dataset) == 9
    assert dataset.defects == ["large", "small"]
    assert dataset.has_masks
    order = [path.relative_to(tiny_root / "alpha" / "test").as_posix() for path in dataset.paths]
    assert order == sorted(order)
    for item, path in zip((dataset[index] for index in range(9)), dataset.paths, strict=True):
        assert item.path == str(path)
        assert item.label == (path.parent.name != "good") == bool(item.mask.any())
        np.testing.assert_array_equal(item.views[0], resize(read_image(path), (32, 32)))
        if item.label:
            assert item.views[0][item.mask[0]].mean() > item.views[0][~item.mask[0]].mean() + 50


@pytest.mark.parametrize("suffix", ["_mask.png", ".png", "_mask.tif", ".BMP"])
def test_mask_names(root: Path, suffix: str) -> None:
    before = [MVTecDataset(root, "alpha", (48, 48))[index].mask for index in range(9)]
    for path in (root / "alpha" / "ground_truth").rglob("*_mask.png"):
        mask = read_image(path)
        path.unlink()
        write_image(path.with_name(path.name.removesuffix("_mask.png") + suffix), mask)
    dataset = MVTecDataset(root, "alpha", (48, 48))
    for index, mask in enumerate(before):
        np.testing.assert_array_equal(dataset[index].mask, mask)


def test_image_suffixes_may_differ_from_those_of_masks(root: Path) -> None:
    for path in image_files(root / "alpha" / "test" / "large"):
        write_image(path.with_suffix(".JPG"), read_image(path))
        path.unlink()
    dataset = MVTecDataset(root, "alpha", (48, 48))
    assert dataset[3].path.endswith("large/000.JPG") or dataset[0].path.endswith("large/000.JPG")
    assert all(dataset[index].mask.any() for index in range(9) if dataset.labels[index])


def test_no_ground_truth_at_all(root: Path) -> None:
    shutil.rmtree(root / "alpha" / "ground_truth")
    dataset = MVTecDataset(root, "alpha", (32, 32))
    assert not dataset.has_masks
    assert dataset.defects == ["large", "small"]
    assert not any(dataset[index].mask.any() for index in range(9))
    assert sum(dataset.labels) == 6


def test_a_missing_mask_is_named(root: Path) -> None:
    (root / "alpha" / "ground_truth" / "small" / "001_mask.png").unlink()
    with pytest.raises(ValueError, match=r"small/001\.png has no mask, though .*: add 001_mask\.png .*\(or move"):
        MVTecDataset(root, "alpha", (32, 32))


def test_a_misnamed_mask_folder_is_an_error_and_no_missing_ground_truth(root: Path) -> None:
    for defect in ("small", "large"):
        (root / "alpha" / "ground_truth" / defect).rename(root / "alpha" / "ground_truth" / defect.upper())
    with pytest.raises(ValueError, match=r"large/000\.png has no mask"):
        MVTecDataset(root, "alpha", (32, 32))


def test_masks_must_have_the_size_of_their_image(root: Path) -> None:
    write_image(root / "alpha" / "ground_truth" / "large" / "000_mask.png", np.ones((24, 48), np.uint8))
    dataset = MVTecDataset(root, "alpha", (32, 32))
    index = dataset.paths.index(root / "alpha" / "test" / "large" / "000.png")
    with pytest.raises(
        ValueError, match=r"mask .*000_mask\.png has 48x24 pixels, but its image .*000\.png has 48x48: s"
    ):
        dataset[index]


def test_incomplete_test_splits_are_allowed(root: Path) -> None:
    (root / "alpha" / "test" / "empty").mkdir()
    (root / "alpha" / "test" / "note.txt").touch()
    assert MVTecDataset(root, "alpha", (32, 32)).defects == ["large", "small"]
    shutil.rmtree(root / "alpha" / "test" / "good")
    assert all(MVTecDataset(root, "alpha", (32, 32)).labels)
    for defect in ("large", "small"):
        shutil.rmtree(root / "alpha" / "test" / defect)
    dataset = MVTecDataset(root, "alpha", (32, 32))
    assert (len(dataset), dataset.defects, dataset.has_masks) == (0, [], False)
    shutil.rmtree(root / "alpha" / "test")
    assert len(MVTecDataset(root, "alpha", (32, 32))) == 0


def test_an_image_of_another_aspect_ratio_is_named_once(tiny_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shape, named in (((32, 96), True), ((64, 64), False)):
        caplog.clear()
        items = MVTecDataset(tiny_root, "alpha", (32, 32), shape)
        assert [item.views.shape for item in (items[0], items[1])] == [(1, 32, 32, 3)] * 2
        notes = [record.getMessage() for record in caplog.records if "another aspect ratio" in record.getMessage()]
        assert len(notes) == named
        assert all("test/good/000.png has 48x48 pixels" in note for note in notes)
