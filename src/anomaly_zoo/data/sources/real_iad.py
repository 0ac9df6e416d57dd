"""Real-IAD: 30 categories of small products, each seen from five sides.

`realiad_<size>/<category>/{OK,NG}/...` and one list per category, `realiad_jsons/<category>.json`, whose entries in
"train" and "test" have `anomaly_class` (`OK`, or the defect), `image_path` and `mask_path`.

Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly Detection",
CVPR 2024.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_zoo.data.conversion import About, convert, inside, locate, with_masks
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="Real-IAD",
    licence="Real-IAD is given to researchers on request, for non-commercial use.",
    citation="Wang et al., Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly "
    "Detection, CVPR 2024",
    by_hand="Ask its authors at https://realiad4ad.github.io/Real-IAD/, and unpack one of the image archives and "
    "realiad_jsons into one folder.",
)

_LISTS = ("realiad_jsons/realiad_jsons", "realiad_jsons")
_IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw", ".")


def arrange(folder: Path) -> Files:
    """Where every file goes, as the lists say. Anomalous images that have no mask there get an empty one."""
    root = locate(folder, "realiad_jsons")
    lists = next((sorted((root / name).glob("*.json")) for name in _LISTS if any((root / name).glob("*.json"))), [])
    files: dict[str, Path | Pixels] = {}
    for file in lists:
        category = file.stem
        images = next((root / name / category for name in _IMAGES if (root / name / category).is_dir()), None)
        if images is None:
            continue  # lists come for all categories, images for those that were downloaded
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        normal = content.get("meta", {}).get("normal_class", "OK")
        for split in ("train", "test"):
            for entry in content[split]:
                files.update(_entry(category, split, entry, images, normal))
    return files


def _entry(category: str, split: str, entry: dict[str, Any], images: Path, normal: str) -> dict[str, Path | Pixels]:
    image = inside(images, entry["image_path"])
    if entry["anomaly_class"] == normal:
        return {f"{category}/{split}/good/{image.name}": image}
    if split == "train":
        return {}  # some of its splits train on noisy images
    listed = entry.get("mask_path")
    mask = inside(images, listed) if listed else lambda: np.zeros_like(read_image(image)[..., 0])
    return dict(with_masks(category, entry["anomaly_class"], [(image, mask)]))


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
