"""VisA: 12 categories of complex, multiple and roughly aligned objects, split as its authors do for one class.

`<category>/Data/Images/{Normal,Anomaly}/*.JPG`, `<category>/Data/Masks/Anomaly/*.png` (numbers of defect kinds), and
`split_csv/1cls.csv` with the columns object, split, label, image and mask.

Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", ECCV 2022.
"""

import csv
from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, inside, locate, with_masks
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="VisA",
    licence="VisA is licensed CC BY 4.0: attribution.",
    citation="Zou et al., SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation, "
    "ECCV 2022, doi:10.1007/978-3-031-20056-4_23",
    by_hand="Get VisA_20220922.tar from https://github.com/amazon-science/spot-diff.",
    download=Download(
        "VisA_20220922.tar",
        ("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",),
        sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        num_bytes=1_929_840_640,
    ),
    published=(8659, 962, 1200),
)

SPLIT = "split_csv/1cls.csv"
DEFECT = "anomalous"
_KINDS = {("normal", "train"), ("normal", "test"), ("anomaly", "test")}
_COLUMNS = {"object", "split", "label", "image", "mask"}


def arrange(folder: Path) -> Files:
    """Where every file goes, as the split file says; anomalous images are the one defect `anomalous`."""
    root = locate(folder, SPLIT)
    files: dict[str, Path | Pixels] = {}
    with (root / SPLIT).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not row.keys() >= _COLUMNS or (row["label"], row["split"]) not in _KINDS:
                raise ValueError(f"{root / SPLIT} has a line that is not understood: {dict(row)}")
            image = inside(root, row["image"])
            if row["label"] == "anomaly":
                files.update(with_masks(row["object"], DEFECT, [(image, inside(root, row["mask"]))]))
            else:
                files[f"{row['object']}/{row['split']}/good/{image.name}"] = image
    return files


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
