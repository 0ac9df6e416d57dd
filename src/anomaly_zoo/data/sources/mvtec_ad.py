"""MVTec AD: 15 categories of objects and textures. Published in the layout that bears its name.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, mvtec_tree
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.tree import Files

ABOUT = About(
    title="MVTec AD",
    licence="MVTec AD is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Bergmann et al., The MVTec Anomaly Detection Dataset: A Comprehensive Real-World Dataset "
    "for Unsupervised Anomaly Detection, "
    "International Journal of Computer Vision 129, 2021, doi:10.1007/s11263-020-01400-4",
    by_hand="Get mvtec_anomaly_detection.tar.xz from https://www.mvtec.com/company/research/datasets/mvtec-ad.",
    download=Download(
        "mvtec_anomaly_detection.tar.xz",
        (  # the link has moved again and again
            "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/420938113-1629960298/"
            "mvtec_anomaly_detection.tar.xz",
            "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/"
            "mvtec_anomaly_detection.tar.xz",
            "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f282/download/420938113-1629952094/"
            "mvtec_anomaly_detection.tar.xz",
        ),
        sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        num_bytes=5_264_982_680,
    ),
    published=(3629, 467, 1258),
)


def arrange(folder: Path) -> Files:
    """Where every file goes: `<category>/{train,test,ground_truth}` stay as they are."""
    return mvtec_tree(locate(folder, "*/train/good"))


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
