"""MVTec AD 2: 8 categories, some transparent or overlapping, under changing light. Its public test split is used.

`<category>/{train,validation}/good`, `<category>/test_public/{good,bad,ground_truth/bad}`. The validation images and
the private test images (whose truth is not published) are left out.

Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection", 2025.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, placed, subfolders, with_masks
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.images import image_files
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="MVTec AD 2",
    licence="MVTec AD 2 is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Heckler-Kram et al., The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection, "
    "2025, arXiv:2503.21622",
    by_hand="Get mvtec_ad_2.tar.gz from https://www.mvtec.com/company/research/datasets/mvtec-ad-2.",
    download=Download(
        "mvtec_ad_2.tar.gz",
        (
            "https://www.mydrive.ch/shares/121573/7f68fe2c4f7c2ceaa08f463aaeb2f414/download/466712769-1743422799/"
            "mvtec_ad_2.tar.gz",
            "https://www.mydrive.ch/shares/150997/701c90d3aea6588f404936e32a674602/download/466712769-1743429042/"
            "mvtec_ad_2.tar.gz",
        ),
        sha256="c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4",
        num_bytes=32_739_596_982,
    ),
)


def arrange(folder: Path) -> Files:
    """Where every file goes: `test_public` becomes `test`, its anomalous images the one defect `bad`."""
    files: dict[str, Path | Pixels] = {}
    for category in subfolders(locate(folder, "*/train/good", "*/test_public/good")):
        name, test = category.name, category / "test_public"
        if not test.is_dir():
            continue
        files.update(placed(f"{name}/train/good", image_files(category / "train" / "good")))
        files.update(placed(f"{name}/test/good", image_files(test / "good")))
        truth = test / "ground_truth" / "bad"
        pairs = ((image, truth / f"{image.stem}_mask.png") for image in image_files(test / "bad"))
        files.update(with_masks(name, "bad", pairs))
    return files


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
