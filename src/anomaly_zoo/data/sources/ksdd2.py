"""KolektorSDD2: surfaces of a production item with defects of many kinds.

`train/10000.png` with its mask `train/10000_GT.png`, black where there is no defect; likewise `test`. The 246 anomalous
images of the training split are left out.

Bozic et al., "Mixed supervision for surface-defect detection: from weakly to fully supervised learning",
Computers in Industry 129, 2021.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, placed, with_masks
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.images import image_files, read_mask
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="KolektorSDD2",
    licence="KolektorSDD2 is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Bozic et al., Mixed supervision for surface-defect detection: from weakly to fully supervised learning, "
    "Computers in Industry 129, 2021, doi:10.1016/j.compind.2021.103459",
    by_hand="Get KolektorSDD2.zip from https://www.vicos.si/resources/kolektorsdd2.",
    published=(2085, 894, 110),
)

CATEGORY = "surface"
DEFECT = "defective"


def arrange(folder: Path) -> Files:
    """Where every file goes."""
    root = locate(folder, "train/*_GT.png", "test/*_GT.png")
    files: dict[str, Path | Pixels] = {}
    for split in ("train", "test"):
        images = [image for image in image_files(root / split) if "_GT" not in image.stem]  # nor copies of masks
        pairs = [(image, image.with_name(f"{image.stem}_GT.png")) for image in images]
        anomalous = {image: mask for image, mask in pairs if read_mask(mask).any()}
        files.update(placed(f"{CATEGORY}/{split}/good", (image for image in images if image not in anomalous)))
        if split == "test":
            files.update(with_masks(CATEGORY, DEFECT, anomalous.items()))
    return files


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
