"""KolektorSDD: surfaces of plastic commutators, 8 images of each of 50; 52 of them show a crack.

`kos01/Part0.jpg` with its mask `kos01/Part0_label.bmp`, black where there is no crack. There is no split for
training on normal images, so this one is ours: one half of the normal images, by a fixed draw, goes to training.

Tabernik et al., "Segmentation-Based Deep-Learning Approach for Surface-Defect Detection", JIM 31, 2020.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, subfolders
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.images import image_files, read_mask
from anomaly_zoo.data.tree import Files, Pixels, halves

ABOUT = About(
    title="KolektorSDD",
    licence="KolektorSDD is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Tabernik et al., Segmentation-Based Deep-Learning Approach for Surface-Defect Detection, Journal of "
    "Intelligent Manufacturing 31, 2020, doi:10.1007/s10845-019-01476-x",
    by_hand="Get KolektorSDD.zip from https://www.vicos.si/resources/kolektorsdd.",
    download=Download(
        "KolektorSDD.zip",
        ("https://go.vicos.si/kolektorsdd",),
        sha256="65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
    ),
    published=(173, 174, 52),
)

CATEGORY = "commutator"
DEFECT = "crack"


def arrange(folder: Path) -> Files:
    """Where every file goes; `kos01/Part0.jpg` becomes `kos01_Part0.jpg`."""
    normal: list[Path] = []
    anomalous: list[Path] = []
    for item in subfolders(locate(folder, "kos*/*_label.bmp")):
        for image in image_files(item):
            if image.stem.endswith("_label"):
                continue
            mask = image.with_name(f"{image.stem}_label.bmp")
            (anomalous if read_mask(mask).any() else normal).append(image)
    train, test = halves(normal, "ksdd", CATEGORY)
    files: dict[str, Path | Pixels] = {}
    for place, images in (("train/good", train), ("test/good", test), (f"test/{DEFECT}", anomalous)):
        files |= {f"{CATEGORY}/{place}/{image.parent.name}_{image.name}": image for image in images}
    for image in anomalous:
        mask = image.with_name(f"{image.stem}_label.bmp")
        files[f"{CATEGORY}/ground_truth/{DEFECT}/{image.parent.name}_{image.stem}_mask.bmp"] = mask
    return files


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
