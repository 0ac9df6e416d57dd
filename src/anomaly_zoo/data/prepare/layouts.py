"""How the authors of public datasets lay them out: one function each, which says where every file goes."""

import csv
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_zoo.data.image_files import image_files, subfolders
from anomaly_zoo.data.images import read_image, read_mask
from anomaly_zoo.data.prepare.tree import Source, inside, locate, placed, split_normal, with_masks
from anomaly_zoo.data.support import seeded_permutation

Places = Iterator[tuple[str, Source]]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

ELPV_LABELS = {"1": "defective", "2/3": "probably_defective", "1/3": "possibly_defective"}  # by their probability
_ELPV_IMAGES = 2624
_CIFAR10_BYTES = 1 + 3 * 32**2  # a label, then the red, green and blue planes
_VISA_SPLIT = "split_csv/1cls.csv"
_VISA_COLUMNS = {"object", "split", "label", "image", "mask"}
_VISA_KINDS = {("normal", "train"), ("normal", "test"), ("anomaly", "test")}
_REAL_IAD_LISTS = ("realiad_jsons/realiad_jsons", "realiad_jsons")
_REAL_IAD_IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw", ".")


def like_mvtec_ad(
    folder: Path, normal: str = "good", test: str = "test", truth: str | None = "ground_truth", also: Sequence[str] = ()
) -> Places:
    """`<category>/{train,test,ground_truth}`, by the authors' names; `also` are globs that tell it from others."""
    for category in subfolders(locate(folder, f"*/train/{normal}", f"*/{test}", *also)):
        name = category.name
        if not (category / "train" / normal).is_dir() or not (category / test).is_dir():
            continue
        yield from placed(f"{name}/train/good", image_files(category / "train" / normal))
        for defect in subfolders(category / test):
            images = image_files(defect)
            if defect.name == normal or truth is None:
                yield from placed(f"{name}/test/{'good' if defect.name == normal else defect.name}", images)
            elif images:
                masks = category / truth / defect.name
                by_stem = {path.stem.removesuffix("_mask"): path for path in image_files(masks)}
                pairs = [(image, by_stem.get(image.stem, masks / f"{image.stem}_mask.png")) for image in images]
                yield from with_masks(f"{name}/test/{defect.name}", pairs)


def visa(folder: Path) -> Places:
    """As `split_csv/1cls.csv` says, with the columns object, split, label, image and mask; one defect `anomalous`."""
    root = locate(folder, _VISA_SPLIT)
    with (root / _VISA_SPLIT).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.keys() >= _VISA_COLUMNS or (row["label"], row["split"]) not in _VISA_KINDS:
                raise ValueError(f"{root / _VISA_SPLIT} has a line that is not understood: {dict(row)}")
            image = inside(root, row["image"])
            if row["label"] == "anomaly":
                yield from with_masks(f"{row['object']}/test/anomalous", [(image, inside(root, row["mask"]))])
            else:
                yield f"{row['object']}/{row['split']}/good/{image.name}", image


def ksdd(folder: Path) -> Places:
    """`kos01/Part0.jpg` (to `kos01_Part0.jpg`), masks `kos01/Part0_label.bmp`; half of those without crack train."""
    parts = subfolders(locate(folder, "kos*/*_label.bmp"))
    images = [image for part in parts for image in image_files(part) if not image.stem.endswith("_label")]
    normal, anomalous = _by_mask(images, "_label.bmp")
    places: list[tuple[str, Source]] = [*split_normal("ksdd", "commutator", normal)]
    places += with_masks("commutator/test/crack", anomalous)
    for place, source in places:
        assert isinstance(source, Path)
        renamed = Path(place).with_name(f"{source.parent.name}_{Path(place).name}")
        yield renamed.as_posix(), source


def ksdd2(folder: Path) -> Places:
    """`{train,test}/10000.png` with masks `10000_GT.png`, black where there is no defect; these stay out of `train`."""
    root = locate(folder, "train/*_GT.png", "test/*_GT.png")
    for split in ("train", "test"):
        images = [image for image in image_files(root / split) if "_GT" not in image.stem]  # nor copies of masks
        normal, anomalous = _by_mask(images, "_GT.png")
        yield from placed(f"surface/{split}/good", normal)
        if split == "test":
            yield from with_masks("surface/test/defective", anomalous)


def _by_mask(images: list[Path], ending: str) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Images whose mask is black, and the others with their masks, which lie beside them."""
    masks = {image: image.with_name(f"{image.stem}{ending}") for image in images}
    anomalous = {image: mask for image, mask in masks.items() if read_mask(mask).any()}
    return [image for image in images if image not in anomalous], list(anomalous.items())


def magnetic_tile(folder: Path) -> Places:
    """`MT_<kind>/Imgs/*.jpg` with masks of the same name in `.png`; half of the normal ones, in `MT_Free`, train."""
    name = "magnetic_tile"
    for kind in subfolders(locate(folder, "MT_Free/Imgs")):
        images = [path for path in image_files(kind / "Imgs") if path.suffix.lower() != ".png"]
        if kind.name == "MT_Free":
            yield from split_normal(name, name, images)
        elif kind.name.startswith("MT_"):
            pairs = [(image, image.with_suffix(".png")) for image in images]
            yield from with_masks(f"{name}/test/{kind.name.removeprefix('MT_').lower()}", pairs)


def dagm(folder: Path) -> Places:
    """`Class1/{Train,Test}/*.PNG`; masks, larger than the defects, in `Test/Label/0001_label.PNG`; `Labels.txt`."""
    root = folder if any(folder.glob("Class*/Class*/Train")) else locate(folder, "Class*/Train", "Class*/Test")
    for outer in subfolders(root):
        category = outer / outer.name if (outer / outer.name).is_dir() else outer  # some archives hold it twice
        if not (category / "Train").is_dir():
            continue
        for split in ("train", "test"):
            images = image_files(category / split.capitalize())
            masks = _dagm_masks(category / split.capitalize() / "Label", {image.stem for image in images})
            name = f"{category.name.lower()}/{split}"
            yield from placed(f"{name}/good", [image for image in images if image.stem not in masks])
            if split == "test":
                pairs = [(image, masks[image.stem]) for image in images if image.stem in masks]
                yield from with_masks(f"{name}/defective", pairs)


def _dagm_masks(folder: Path, stems: set[str]) -> dict[str, Path]:
    """The masks by the stems of their images, which must be those that the list calls anomalous."""
    masks = {path.stem.removesuffix("_label"): path for path in image_files(folder)}
    labels = folder / "Labels.txt"
    if labels.is_file():
        rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines()]
        listed = {Path(row[2]).stem for row in rows if len(row) > 2 and row[1] == "1"}
        if differing := sorted(listed ^ (masks.keys() & stems)):
            raise ValueError(f"{labels} and its masks disagree on {', '.join(differing[:3])}: unpack it again")
    return masks


def real_iad(folder: Path) -> Places:
    """`realiad_<size>/<category>/{OK,NG}/...`, as the lists `realiad_jsons/<category>.json` say.

    Entries have `anomaly_class` (`OK`, or the defect), `image_path` and `mask_path`; without the last, an empty mask.
    """
    root = locate(folder, "realiad_jsons")
    lists = next((sorted((root / n).glob("*.json")) for n in _REAL_IAD_LISTS if any((root / n).glob("*.json"))), [])
    for file in lists:
        category = file.stem
        images = next((root / n / category for n in _REAL_IAD_IMAGES if (root / n / category).is_dir()), None)
        if images is None:
            continue  # lists come for all categories, images for those that were downloaded
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        normal = content.get("meta", {}).get("normal_class", "OK")
        for split in ("train", "test"):
            for entry in content[split]:
                image, defect = inside(images, entry["image_path"]), entry["anomaly_class"]
                if defect == normal:
                    yield f"{category}/{split}/good/{image.name}", image
                elif split == "test":  # some of its splits train on noisy images
                    listed = entry.get("mask_path")
                    mask = inside(images, listed) if listed else partial(_empty_mask, image)
                    yield from with_masks(f"{category}/test/{defect}", [(image, mask)])


def _empty_mask(image: Path) -> np.ndarray:
    return np.zeros_like(read_image(image)[..., 0])


def elpv(folder: Path, max_test: int | None = 80, labels: Sequence[str] = ("1",)) -> Iterator[tuple[str, Path]]:
    """As `labels.csv` says: name, probability of a defect and module type, which is the category."""
    root = locate(folder, "labels.csv")
    rows = [line.split() for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(rows) != _ELPV_IMAGES:
        raise ValueError(f"{root} lists {len(rows)} images instead of {_ELPV_IMAGES}: reinstall elpv-dataset")
    for category in ("mono", "poly"):
        cells = [(root / name, float(probability)) for name, probability, kind in rows if kind == category]

        def drawn(label: str, name: str, category: str = category, cells: Any = cells) -> list[Path]:
            files = sorted(file for file, value in cells if abs(value - float(Fraction(label))) < 0.01)
            return [files[index] for index in seeded_permutation(len(files), "elpv", category, name)]

        normal = drawn("0", "normal")
        yield from placed(f"{category}/train/good", normal[: len(normal) // 2])
        yield from placed(f"{category}/test/good", normal[len(normal) // 2 :][:max_test])
        for label in labels:
            anomalous = drawn(label, "anomalous" if label == "1" else ELPV_LABELS[label])
            yield from placed(f"{category}/test/{ELPV_LABELS[label]}", anomalous[:max_test])


def cifar10(folder: Path) -> Places:
    """Ten categories, named by their normal class; others are defects. Of the binary edition: pickles run code."""
    root = locate(folder, "data_batch_*.bin", "test_batch.bin")
    train = np.concatenate([_cifar10_images(file) for file in sorted(root.glob("data_batch_*.bin"))])
    test = _cifar10_images(root / "test_batch.bin")
    for label, category in enumerate(CIFAR10_CLASSES):
        for index in np.flatnonzero(train[:, 0] == label):
            yield f"{category}/train/good/{index:05}.png", partial(_cifar10_pixels, train[index])
        for number, image in enumerate(test):
            kind = "good" if image[0] == label else CIFAR10_CLASSES[image[0]]
            yield f"{category}/test/{kind}/{number:05}.png", partial(_cifar10_pixels, image)


def _cifar10_images(file: Path) -> np.ndarray:
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % _CIFAR10_BYTES or data[::_CIFAR10_BYTES].max() >= len(CIFAR10_CLASSES):
        raise ValueError(f"{file} has {len(data)} bytes, no CIFAR-10 images of {_CIFAR10_BYTES} bytes: get it again")
    return data.reshape(-1, _CIFAR10_BYTES)


def _cifar10_pixels(image: np.ndarray) -> np.ndarray:
    return np.asarray(image[1:].reshape(3, 32, 32).transpose(1, 2, 0))
