"""Every converter on a miniature of what its dataset's authors publish: the same tree, names, suffixes and lists."""

import csv
import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.__main__ import source_names
from anomaly_zoo.data.conversion import About, differs_from_published
from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.images import image_files, read_image, read_mask
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.sources import cifar10
from anomaly_zoo.data.tree import damaged_files
from tests.conftest import write_image

RNG = np.random.default_rng(0)
MASK = np.zeros((12, 16), np.uint8)
MASK[3:6, 4:9] = 255
EMPTY = np.zeros_like(MASK)

Counts = dict[str, int]
"""Images and masks per folder of the converted tree."""


def picture() -> np.ndarray:
    return RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def mvtec_ad(raw: Path, top: str = "", normal: str = "good", defects: tuple[str, ...] = ("scratch", "hole")) -> Counts:
    for category in ("bottle", "screw"):
        for number in range(4):
            write_image(raw / top / category / "train" / normal / f"{number:03}.png", picture())
        for number in range(2):
            write_image(raw / top / category / "test" / normal / f"{number:03}.png", picture())
            for defect in defects:
                write_image(raw / top / category / "test" / defect / f"{number:03}.png", picture())
                write_image(raw / top / category / "ground_truth" / defect / f"{number:03}_mask.png", MASK)
    (raw / top / "license.txt").write_text("CC")
    counts = {"bottle/train/good": 4, "screw/test/good": 2}
    counts |= {f"bottle/{part}/{defect}": 2 for part in ("test", "ground_truth") for defect in defects}
    return counts


def mpdd(raw: Path) -> Counts:
    return mvtec_ad(raw, top="MPDD")


def mvtec_ad_2(raw: Path) -> Counts:
    category = raw / "mvtec_ad_2" / "can"
    for split in ("train", "validation"):
        for number in range(3):
            write_image(category / split / "good" / f"{number:03}_regular.png", picture())
    for light in ("regular", "overexposed", "shift_1"):
        write_image(category / "test_public" / "good" / f"000_{light}.png", picture())
        write_image(category / "test_public" / "bad" / f"001_{light}.png", picture())
        write_image(category / "test_public" / "ground_truth" / "bad" / f"001_{light}_mask.png", MASK)
    for split in ("test_private", "test_private_mixed"):
        write_image(category / split / "000_regular.png", picture())
    return {"can/train/good": 3, "can/test/good": 3, "can/test/bad": 3, "can/ground_truth/bad": 3}


def mvtec_loco(raw: Path) -> Counts:
    category = raw / "pushpins"
    for number in range(3):
        for folder in ("train/good", "validation/good", "test/good", "test/logical_anomalies"):
            write_image(category / folder / f"{number:03}.png", picture())
        write_image(category / "test" / "structural_anomalies" / f"{number:03}.png", picture())
        for part in range(2):
            write_image(category / "ground_truth" / "logical_anomalies" / f"{number:03}" / f"{part:03}.png", MASK)
    (category / "defects_config.json").write_text("[]")
    counts = {f"pushpins/{name}": 3 for name in ("train/good", "test/good", "test/logical_anomalies")}
    return counts | {"pushpins/test/structural_anomalies": 3}


def visa(raw: Path) -> Counts:
    rows = []
    for number in range(5):
        name = f"candle/Data/Images/Normal/{number:04}.JPG"
        write_image(raw / name, picture())
        rows.append(["candle", "train" if number < 3 else "test", "normal", name, ""])
    for number in range(2):
        name, mask = f"candle/Data/Images/Anomaly/{number:03}.JPG", f"candle/Data/Masks/Anomaly/{number:03}.png"
        write_image(raw / name, picture())
        write_image(raw / mask, MASK // 255 * (number + 1))  # numbers of defect kinds
        rows.append(["candle", "test", "anomaly", name, mask])
    (raw / "split_csv").mkdir()
    with (raw / "split_csv" / "1cls.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])
    (raw / "candle" / "image_anno.csv").write_text("image,label,mask\n")
    return {
        "candle/train/good": 3,
        "candle/test/good": 2,
        "candle/test/anomalous": 2,
        "candle/ground_truth/anomalous": 2,
    }


def btad(raw: Path) -> Counts:
    for category, suffix, mask_suffix in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        folder = raw / "BTech_Dataset_transformed" / category
        for number in range(3):
            write_image(folder / "train" / "ok" / f"{number:04}.{suffix}", picture())
            write_image(folder / "test" / "ok" / f"{number:04}.{suffix}", picture())
            write_image(folder / "test" / "ko" / f"{number:04}.{suffix}", picture())
            write_image(folder / "ground_truth" / "ko" / f"{number:04}.{mask_suffix}", MASK)
    return {
        f"{c}/{part}": 3
        for c in ("01", "02", "03")
        for part in ("train/good", "test/good", "test/ko", "ground_truth/ko")
    }


def ksdd(raw: Path) -> Counts:
    for item in range(1, 6):
        for part in range(8):
            folder = raw / "KolektorSDD" / f"kos{item:02}"
            write_image(folder / f"Part{part}.jpg", picture())
            write_image(folder / f"Part{part}_label.bmp", MASK if part == item else EMPTY)
    return {f"commutator/{name}": n for name, n in
            {"train/good": 17, "test/good": 18, "test/crack": 5, "ground_truth/crack": 5}.items()}  # fmt: skip


def ksdd2(raw: Path) -> Counts:
    for split, first, normal, anomalous in (("train", 10000, 4, 2), ("test", 20000, 3, 2)):
        for number in range(normal + anomalous):
            write_image(raw / split / f"{first + number}.png", picture())
            write_image(raw / split / f"{first + number}_GT.png", MASK if number >= normal else EMPTY)
    return {
        "surface/train/good": 4,
        "surface/test/good": 3,
        "surface/test/defective": 2,
        "surface/ground_truth/defective": 2,
    }


def magnetic_tile(raw: Path) -> Counts:
    for kind, count in (("Free", 5), ("Blowhole", 2), ("Break", 1), ("Crack", 1), ("Fray", 1), ("Uneven", 1)):
        for number in range(count):
            stem = raw / "Magnetic-tile-defect-datasets.-master" / f"MT_{kind}" / "Imgs" / f"exp1_num_{number}"
            write_image(stem.with_suffix(".jpg"), picture())
            write_image(stem.with_suffix(".png"), EMPTY if kind == "Free" else MASK)
    return {f"magnetic_tile/{name}": n for name, n in
            {"train/good": 2, "test/good": 3, "test/blowhole": 2, "ground_truth/uneven": 1}.items()}  # fmt: skip


def dagm(raw: Path) -> Counts:
    for category in ("Class1", "Class10"):
        for split in ("Train", "Test"):
            folder = raw / category / category if category == "Class10" else raw / category
            rows = ["1"]
            for number in range(1, 6):
                write_image(folder / split / f"{number:04}.PNG", picture())
                rows.append(f"{number}\t{int(number == 5)}\t{number:04}.PNG\t{int(number == 5)}\t0005_label.PNG")
            write_image(folder / split / "Label" / "0005_label.PNG", MASK)
            (folder / split / "Label" / "Labels.txt").write_text("\n".join(rows))
    return {f"{c}/{name}": n for c in ("class1", "class10") for name, n in
            {"train/good": 4, "test/good": 4, "test/defective": 1, "ground_truth/defective": 1}.items()}  # fmt: skip


def real_iad(raw: Path) -> Counts:
    entries: dict[str, list[dict[str, str | None]]] = {"train": [], "test": []}
    for split, first in (("train", 0), ("test", 4)):
        for number in range(first, first + 3):
            name = f"OK/S{number:04}/mint_{number:04}_OK_C1.jpg"
            write_image(raw / "realiad_256" / "mint" / name, picture())
            entries[split].append({"category": "mint", "anomaly_class": "OK", "image_path": name, "mask_path": None})
    for number, masked in ((8, True), (9, False)):
        name = f"NG/AK/S{number:04}/mint_{number:04}_AK_C1.jpg"
        mask = name.replace(".jpg", ".png") if masked else None
        write_image(raw / "realiad_256" / "mint" / name, picture())
        if mask:
            write_image(raw / "realiad_256" / "mint" / mask, MASK)
        entries["test"].append({"category": "mint", "anomaly_class": "AK", "image_path": name, "mask_path": mask})
    for folder in ("realiad_jsons", "realiad_jsons_sv"):
        (raw / "realiad_jsons" / folder).mkdir(parents=True)
        content = {"meta": {"prefix": "mint/", "normal_class": "OK"}, **entries}
        (raw / "realiad_jsons" / folder / "mint.json").write_text(json.dumps(content))
        (raw / "realiad_jsons" / folder / "zipper.json").write_text(json.dumps(content))  # not downloaded
    return {"mint/train/good": 3, "mint/test/good": 3, "mint/test/AK": 2, "mint/ground_truth/AK": 2}


def cifar(raw: Path) -> Counts:
    folder = raw / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        records = RNG.integers(0, 256, (20, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(cifar10.CLASSES))
    counts = {f"{name}/train/good": 10 for name in cifar10.CLASSES}
    return counts | {"cat/test/good": 2, "cat/test/dog": 2, "truck/test/ship": 2}


MINIATURES: dict[str, Callable[[Path], Counts]] = {
    "mvtec_ad": mvtec_ad, "mvtec_ad_2": mvtec_ad_2, "mvtec_loco": mvtec_loco, "visa": visa, "btad": btad, "mpdd": mpdd,
    "ksdd": ksdd, "ksdd2": ksdd2, "magnetic_tile": magnetic_tile, "dagm": dagm, "real_iad": real_iad, "cifar10": cifar,
}  # fmt: skip


def test_every_source_has_a_miniature() -> None:
    assert set(source_names()) == MINIATURES.keys() | {"elpv"}


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = importlib.import_module(f"anomaly_zoo.data.sources.{name}")
    (tmp_path / "raw").mkdir()
    counts = MINIATURES[name](tmp_path / "raw")
    target = source.prepare(tmp_path / "datasets" / name, tmp_path / "raw", max_test=None)
    found = {folder: len(image_files(target / folder)) for folder in counts}
    assert found == counts
    about = json.loads((target / "source.json").read_text())
    assert about["licence"] == source.ABOUT.licence
    assert sum(about["images"].values()) == sum(len(image_files(p)) for p in target.rglob("*") if p.is_dir())
    assert damaged_files(target) == []
    for category in sorted(path.name for path in target.iterdir() if path.is_dir()):
        dataset = MVTecDataset(target, category, 16)
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
    assert source.prepare(target, max_test=None) == target  # no download either
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before


def test_an_archive_is_as_good_as_a_folder(tmp_path: Path) -> None:
    source = importlib.import_module("anomaly_zoo.data.sources.ksdd2")
    ksdd2(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "KolektorSDD2.zip", "w") as archive:
        for path in sorted((tmp_path / "raw").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "raw"))
    one = source.prepare(tmp_path / "a" / "ksdd2", tmp_path / "raw")
    two = source.prepare(tmp_path / "b" / "ksdd2", tmp_path / "KolektorSDD2.zip")
    assert (one / "checksums.sha256").read_text() == (two / "checksums.sha256").read_text()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["ksdd2"]
    note = differs_from_published(source.ABOUT, one)
    assert note is not None
    assert "has 4 training, 3 normal and 2 anomalous test images" in note
    assert "published with 2085 training, 894 normal and 110 anomalous" in note


@pytest.mark.parametrize("name", MINIATURES)
def test_something_else_is_refused(name: str, tmp_path: Path) -> None:
    source = importlib.import_module(f"anomaly_zoo.data.sources.{name}")
    write_image(tmp_path / "raw" / "holiday.png", picture())
    with pytest.raises(FileNotFoundError, match="does not hold what it should"):
        source.prepare(tmp_path / "datasets" / name, tmp_path / "raw")
    about: About = source.ABOUT
    with pytest.raises(FileNotFoundError, match=r"there is no .*--from"):
        source.prepare(tmp_path / "datasets" / name, tmp_path / "missing")
    if about.download is None:
        with pytest.raises(FileNotFoundError, match=r"is not downloaded for you\. .*--from"):
            source.prepare(tmp_path / "datasets" / name)
    else:
        (tmp_path / "wrong.zip").write_bytes(b"PK")
        with pytest.raises(ValueError, match=r"wrong\.zip has SHA-256 .*, not "):
            source.prepare(tmp_path / "datasets" / name, tmp_path / "wrong.zip")
        assert len(about.download.sha256) == 64
    assert not list((tmp_path / "datasets").glob("*"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    mvtec_ad(tmp_path / "raw")
    (tmp_path / "raw" / "screw" / "ground_truth" / "hole" / "001_mask.png").unlink()
    source = importlib.import_module("anomaly_zoo.data.sources.mvtec_ad")
    with pytest.raises(FileNotFoundError, match=r"screw/test/hole/001\.png is anomalous, but its mask .*001_mask\.png"):
        source.prepare(tmp_path / "mvtec_ad", tmp_path / "raw")
    dagm(tmp_path / "dagm_raw")
    (tmp_path / "dagm_raw" / "Class1" / "Test" / "Label" / "0005_label.PNG").unlink()
    with pytest.raises(ValueError, match=r"Labels\.txt and the masks beside it disagree on 0005"):
        importlib.import_module("anomaly_zoo.data.sources.dagm").prepare(tmp_path / "dagm", tmp_path / "dagm_raw")
    (tmp_path / "cifar_raw").mkdir()
    cifar(tmp_path / "cifar_raw")
    (tmp_path / "cifar_raw" / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"test_batch\.bin has 100 bytes"):
        cifar10.prepare(tmp_path / "cifar10", tmp_path / "cifar_raw")


def test_cifar_pixels(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    cifar(tmp_path / "raw")
    target = cifar10.prepare(tmp_path / "cifar10", tmp_path / "raw", max_test=1)
    record = np.fromfile(tmp_path / "raw" / "cifar-10-batches-bin" / "data_batch_2.bin", np.uint8).reshape(20, 3073)[13]
    image = read_image(target / "cat" / "train" / "good" / "00033.png")
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel].ravel(), record[1 + 1024 * channel :][:1024])
    for category in cifar10.CLASSES:
        dataset = MVTecDataset(target, category, 32)
        assert (len(dataset.labels), sum(dataset.labels)) == (2, 1)


REAL = {"mvtec_ad": ("mvtec_ad", 83 + 158)}


def test_real_mvtec_ad(shared_data: Path, tmp_path: Path) -> None:
    source = importlib.import_module("anomaly_zoo.data.sources.mvtec_ad")
    target = source.prepare(tmp_path / "mvtec_ad", shared_data / "mvtec_ad")
    for category, number in (("bottle", 83), ("screw", 158)):
        dataset, original = (MVTecDataset(root, category, 64) for root in (target, shared_data / "mvtec_ad"))
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
    source = importlib.import_module("anomaly_zoo.data.sources.magnetic_tile")
    target = source.prepare(tmp_path / "magnetic_tile", tmp_path / "raw")
    dataset = MVTecDataset(target, "magnetic_tile", 64)
    assert (sum(dataset.labels), len(image_files(target / "magnetic_tile" / "train" / "good"))) == (150, 72)
    assert dataset.defects == ["blowhole", "break", "crack", "fray", "uneven"]
    for path, mask_path in zip(dataset.paths, dataset.mask_paths, strict=True):
        if mask_path is not None:
            assert not mask_path.is_symlink()
            assert read_mask(mask_path).shape == read_image(path).shape[:2]
