"""MVTec LOCO AD: 5 categories with structural and logical anomalies, for scores of whole images.

`<category>/{train,validation,test}/...`, `<category>/ground_truth/<defect>/<image>/*.png`. A logical anomaly (something
is missing, or there is one too many) has no true place, and its authors score maps by a metric of their own. So the
ground truth is left out, and only image metrics are computed. The validation images are left out too.

Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 130, 2022.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, mvtec_tree
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.tree import Files

ABOUT = About(
    title="MVTec LOCO AD",
    licence="MVTec LOCO AD is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Bergmann et al., Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and "
    "Localization, International Journal of Computer Vision 130, 2022, doi:10.1007/s11263-022-01578-9",
    by_hand="Get mvtec_loco_anomaly_detection.tar.xz from https://www.mvtec.com/company/research/datasets/mvtec-loco.",
    download=Download(
        "mvtec_loco_anomaly_detection.tar.xz",
        (
            "https://www.mydrive.ch/shares/48237/1b9106ccdfbb09a0c414bd49fe44a14a/download/430647091-1646842701/"
            "mvtec_loco_anomaly_detection.tar.xz",
        ),
        sha256="9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",
    ),
)


def arrange(folder: Path) -> Files:
    """Where every file goes: training and test images stay where they are."""
    return mvtec_tree(locate(folder, "*/train/good", "*/test/logical_anomalies"), masks=False)


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
