"""Miniatures of what the datasets' authors publish: the same tree, names, suffixes and lists."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anomaly_zoo.data.prepare.layouts import CIFAR10_CLASSES
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
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES))
    counts = {f"{name}/train/good": 10 for name in CIFAR10_CLASSES}
    return counts | {"cat/test/good": 2, "cat/test/dog": 2, "truck/test/ship": 2}


MINIATURES: dict[str, Callable[[Path], Counts]] = {
    "mvtec_ad": mvtec_ad, "mvtec_ad_2": mvtec_ad_2, "mvtec_loco": mvtec_loco, "visa": visa, "btad": btad, "mpdd": mpdd,
    "ksdd": ksdd, "ksdd2": ksdd2, "magnetic_tile": magnetic_tile, "dagm": dagm, "real_iad": real_iad, "cifar10": cifar,
}  # fmt: skip
