"""Every converter on a miniature of its dataset, and on real images where they are at hand."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.images import read_image, read_mask
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.prepare.conversion import convert, differs_from_published
from anomaly_zoo.data.prepare.layouts import CIFAR10_CLASSES
from anomaly_zoo.data.prepare.public_datasets import PUBLIC_DATASETS
from anomaly_zoo.data.prepare.tree import damaged_files
from tests.conftest import write_image
from tests.data.prepare.miniatures import MASK, MINIATURES, cifar, dagm, ksdd2, mvtec_ad, picture


def prepare(name: str, target: Path, raw: Path | None = None, max_test: int | None = None) -> Path:
    return convert(PUBLIC_DATASETS[name], target, raw, max_test)


def test_every_dataset_has_a_miniature() -> None:
    assert list(PUBLIC_DATASETS) == sorted(MINIATURES.keys() | {"elpv"})


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw").mkdir()
    counts = MINIATURES[name](tmp_path / "raw")
    target = prepare(name, tmp_path / "datasets" / name, tmp_path / "raw")
    found = {folder: len(image_files(target / folder)) for folder in counts}
    assert found == counts
    about = json.loads((target / "source.json").read_text())
    assert about["licence"] == PUBLIC_DATASETS[name].licence
    assert sum(about["images"].values()) == sum(len(image_files(p)) for p in target.rglob("*") if p.is_dir())
    assert damaged_files(target) == []
    for category in sorted(path.name for path in target.iterdir() if path.is_dir()):
        dataset = MVTecDataset(target, category, (16, 16))
        assert dataset.has_masks == any(folder.startswith(f"{category}/ground_truth") for folder in about["images"])
        for index, label in enumerate(dataset.labels):
            mask = dataset[index].mask
            expected = (
                MASK.any() if dataset.has_masks and label and "0009_AK" not in str(dataset.paths[index]) else False
            )
            assert bool(mask.any()) == expected
        MVTecDataModule(target, category, shots=1, image_size=16).support()
        train = {path.read_bytes() for path in image_files(target / category / "train" / "good")}
        assert not train & {path.read_bytes() for path in dataset.paths}
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    shutil.rmtree(tmp_path / "raw")
    assert prepare(name, target) == target  # no download either
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_an_archive_is_as_good_as_a_folder(tmp_path: Path) -> None:
    ksdd2(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "KolektorSDD2.zip", "w") as archive:
        for path in sorted((tmp_path / "raw").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "raw"))
    one = prepare("ksdd2", tmp_path / "a" / "ksdd2", tmp_path / "raw")
    two = prepare("ksdd2", tmp_path / "b" / "ksdd2", tmp_path / "KolektorSDD2.zip")
    assert (one / "checksums.sha256").read_text() == (two / "checksums.sha256").read_text()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["ksdd2"]
    note = differs_from_published(PUBLIC_DATASETS["ksdd2"], one)
    assert note is not None
    assert "has 4 training, 3 normal and 2 anomalous test images" in note
    assert "published with 2085 training, 894 normal and 110 anomalous" in note


@pytest.mark.parametrize("name", MINIATURES)
def test_something_else_is_refused(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "raw" / "holiday.png", picture())
    with pytest.raises(FileNotFoundError, match="does not hold what it should"):
        prepare(name, tmp_path / "datasets" / name, tmp_path / "raw")
    download = PUBLIC_DATASETS[name].download
    with pytest.raises(FileNotFoundError, match=r"there is no .*--from"):
        prepare(name, tmp_path / "datasets" / name, tmp_path / "missing")
    if download is None:
        with pytest.raises(FileNotFoundError, match=r"is not downloaded for you\. .*--from"):
            prepare(name, tmp_path / "datasets" / name)
    else:
        (tmp_path / "wrong.zip").write_bytes(b"PK")
        with pytest.raises(ValueError, match=r"wrong\.zip has SHA-256 .*, not "):
            prepare(name, tmp_path / "datasets" / name, tmp_path / "wrong.zip")
        assert len(download.sha256) == 64
    assert not list((tmp_path / "datasets").glob("*"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    mvtec_ad(tmp_path / "raw")
    (tmp_path / "raw" / "screw" / "ground_truth" / "hole" / "001_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"screw/test/hole/001\.png is anomalous, but its mask .*001_mask\.png"):
        prepare("mvtec_ad", tmp_path / "mvtec_ad", tmp_path / "raw")
    dagm(tmp_path / "dagm_raw")
    (tmp_path / "dagm_raw" / "Class1" / "Test" / "Label" / "0005_label.PNG").unlink()
    with pytest.raises(ValueError, match=r"Labels\.txt and its masks disagree on 0005"):
        prepare("dagm", tmp_path / "dagm", tmp_path / "dagm_raw")
    (tmp_path / "cifar_raw").mkdir()
    cifar(tmp_path / "cifar_raw")
    (tmp_path / "cifar_raw" / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"test_batch\.bin has 100 bytes"):
        prepare("cifar10", tmp_path / "cifar10", tmp_path / "cifar_raw")


def test_cifar_pixels(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    cifar(tmp_path / "raw")
    target = prepare("cifar10", tmp_path / "cifar10", tmp_path / "raw", max_test=1)
    record = np.fromfile(tmp_path / "raw" / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8).reshape(20, 3073)[13]
    image = read_image(target / "cat" / "train" / "good" / "00033.png")
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel].ravel(), record[1 + 1024 * channel :][:1024])
    for category in CIFAR10_CLASSES:
        dataset = MVTecDataset(target, category, (32, 32))
        assert (len(dataset.labels), sum(dataset.labels)) == (2, 1)


def test_real_mvtec_ad(shared_data: Path, tmp_path: Path) -> None:
    target = prepare("mvtec_ad", tmp_path / "mvtec_ad", shared_data / "mvtec_ad")
    for category, number in (("bottle", 83), ("screw", 158)):
        dataset, original = (MVTecDataset(root, category, (64, 64)) for root in (target, shared_data / "mvtec_ad"))
        assert len(dataset) == number
        assert [p.relative_to(target) for p in dataset.paths] == [
            p.relative_to(shared_data / "mvtec_ad") for p in original.paths
        ]
        np.testing.assert_array_equal(dataset[5].mask, original[5].mask)


def test_real_magnetic_tiles(shared_data: Path, tmp_path: Path) -> None:
    """The real images, laid out as their authors do."""
    given = shared_data / "other" / "magnetic_tile"
    normal = image_files(given / "train" / "good") + image_files(given / "test" / "good")
    kinds = {"Free": normal} | {
        d: image_files(given / "test" / d) for d in ("blowhole", "break", "crack", "fray", "uneven")
    }
    for kind, images in kinds.items():
        folder = tmp_path / "raw" / f"MT_{kind.capitalize()}" / "Imgs"
        folder.mkdir(parents=True)
        for number, image in enumerate(images):
            (folder / f"exp1_num_{number}.jpg").symlink_to(image)  # the content, not the suffix, decides
            if kind != "Free":
                mask = given / "ground_truth" / kind / f"{image.stem}_mask.png"
                (folder / f"exp1_num_{number}.png").symlink_to(mask)
    target = prepare("magnetic_tile", tmp_path / "magnetic_tile", tmp_path / "raw")
    dataset = MVTecDataset(target, "magnetic_tile", (64, 64))
    assert (sum(dataset.labels), len(image_files(target / "magnetic_tile" / "train" / "good"))) == (150, 72)
    assert dataset.defects == ["blowhole", "break", "crack", "fray", "uneven"]
    for path, mask_path in zip(dataset.paths, dataset.mask_paths, strict=True):
        if mask_path is not None:
            assert not mask_path.is_symlink()
            assert read_mask(mask_path).shape == read_image(path).shape[:2]


@pytest.mark.parametrize("listed", ["../secret.JPG", "/etc/secret.JPG", "C:\\secret.JPG", "a\\..\\..\\secret.JPG"])
def test_lists_cannot_name_files_elsewhere(listed: str, tmp_path: Path) -> None:
    write_image(tmp_path / "secret.JPG", picture())
    for name in ("visa", "real_iad"):
        (tmp_path / name).mkdir()
        MINIATURES[name](tmp_path / name)
    (tmp_path / "visa" / "split_csv" / "1cls.csv").write_text(
        f"object,split,label,image,mask\nx,train,normal,{listed},\n"
    )
    for file in (tmp_path / "real_iad").rglob("mint.json"):
        entry = {"anomaly_class": "OK", "image_path": listed, "mask_path": None}
        file.write_text(json.dumps({"train": [entry], "test": []}))
    for name in ("visa", "real_iad"):
        with pytest.raises(ValueError, match="which leads out of it"):
            prepare(name, tmp_path / "out", tmp_path / name)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("real_iad", "mint.json", b"{"),
        ("real_iad", "mint.json", b"[]"),
        ("real_iad", "mint.json", b'{"train": 3}'),
        ("real_iad", "mint.json", b"\xff\xfe{}"),
        ("visa", "1cls.csv", b"\xff\xfe\n\n"),
        ("visa", "1cls.csv", b"object,split,label,image,mask\n" + b"x" * 200_000),
        ("visa", "1cls.csv", b"object,split\nx,train\n"),
        ("dagm", "Labels.txt", b"\xff\xfe\n"),
    ],
)
def test_damaged_lists_are_named(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    MINIATURES[name](tmp_path / "raw")
    for path in (tmp_path / "raw").rglob(file):
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"raw.* (holds a list|has a line) that is not understood"):
        prepare(name, tmp_path / "out", tmp_path / "raw")
    assert not (tmp_path / "out").exists()
