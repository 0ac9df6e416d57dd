"""Magnetic tile defects: 1,344 images of magnetic tiles with five kinds of defects.

`MT_<kind>/Imgs/*.jpg` with masks of the same name in `.png`; `MT_Free` holds the normal ones. There is no split for
training on normal images, so this one is ours: one half of the normal images, by a fixed draw, goes to training.

Huang et al., "Surface defect saliency of magnetic tile", The Visual Computer 36, 2020.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, placed, subfolders, with_masks
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.images import image_files
from anomaly_zoo.data.tree import Files, Pixels, halves

ABOUT = About(
    title="Magnetic Tile",
    licence="The magnetic tile dataset states no licence; its authors welcome use with citation.",
    citation="Huang et al., Surface defect saliency of magnetic tile, The Visual Computer 36, 2020, "
    "doi:10.1007/s00371-018-1588-5",
    by_hand="Get the folders MT_Blowhole to MT_Uneven from https://github.com/abin24/Magnetic-tile-defect-datasets.",
    published=(476, 476, 392),
)

CATEGORY = "magnetic_tile"
_NORMAL = "free"


def arrange(folder: Path) -> Files:
    """Where every file goes; `MT_Blowhole` becomes the defect `blowhole`."""
    files: dict[str, Path | Pixels] = {}
    for kind in subfolders(locate(folder, "MT_Free/Imgs")):
        if not kind.name.startswith("MT_"):
            continue
        defect = kind.name.removeprefix("MT_").lower()
        images = [path for path in image_files(kind / "Imgs") if path.suffix.lower() != ".png"]
        if defect == _NORMAL:
            train, test = halves(images, "magnetic_tile", CATEGORY)
            files.update(placed(f"{CATEGORY}/train/good", train))
            files.update(placed(f"{CATEGORY}/test/good", test))
        else:
            files.update(with_masks(CATEGORY, defect, ((image, image.with_suffix(".png")) for image in images)))
    return files


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
