"""DAGM 2007: ten generated textures with one kind of defect each, marked by a rough ellipse.

`Class1/{Train,Test}/*.PNG`, with masks `Class1/Test/Label/0001_label.PNG` for anomalous images only, and lists
`Class1/Test/Label/Labels.txt`. The anomalous images of the training split are left out. The masks cover more than the
defect, so that pixel metrics are rough.

Wieler and Hahn, "Weakly Supervised Learning for Industrial Optical Inspection", DAGM 2007.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, placed, subfolders, with_masks
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.images import image_files
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="DAGM 2007",
    licence="DAGM 2007: see the terms on the page that it comes from.",
    citation="Wieler and Hahn, Weakly Supervised Learning for Industrial Optical Inspection, DAGM 2007",
    by_hand="Get the archives of Class1 to Class10 (the DAGM 2007 competition dataset) from the Heidelberg "
    "Collaboratory for Image Processing, and unpack them into one folder.",
)

DEFECT = "defective"


def arrange(folder: Path) -> Files:
    """Where every file goes; `Class1` becomes the category `class1`."""
    root = folder if any(folder.glob("Class*/Class*/Train")) else locate(folder, "Class*/Train", "Class*/Test")
    files: dict[str, Path | Pixels] = {}
    for outer in subfolders(root):
        category = outer / outer.name if (outer / outer.name).is_dir() else outer  # some archives hold it twice
        if not (category / "Train").is_dir():
            continue
        name = category.name.lower()
        train, _ = _split(category / "Train")
        normal, pairs = _split(category / "Test")
        files.update(placed(f"{name}/train/good", train))
        files.update(placed(f"{name}/test/good", normal))
        files.update(with_masks(name, DEFECT, pairs))
    return files


def _split(folder: Path) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Normal images, and anomalous ones with their masks.

    Raises:
        ValueError: the masks and the list of labels contradict each other.
    """
    masks = {path.stem.removesuffix("_label"): path for path in image_files(folder / "Label")}
    images = image_files(folder)
    labels = folder / "Label" / "Labels.txt"
    if labels.is_file():
        rows = [line.split() for line in labels.read_text(encoding="utf-8").splitlines()]
        listed = {Path(row[2]).stem for row in rows if len(row) > 2 and row[1] == "1"}
        if differing := sorted(listed ^ (masks.keys() & {image.stem for image in images})):
            raise ValueError(
                f"{labels} and the masks beside it disagree on {', '.join(differing[:3])}: unpack it again"
            )
    normal = [image for image in images if image.stem not in masks]
    return normal, [(image, masks[image.stem]) for image in images if image.stem in masks]


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
