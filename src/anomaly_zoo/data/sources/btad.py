"""BTAD: three industrial products, `01`, `02` and `03`, laid out like MVTec AD with `ok` and `ko`.

Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE 2021.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, mvtec_tree
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.tree import Files

ABOUT = About(
    title="BTAD",
    licence="BTAD is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Mishra et al., VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization, "
    "ISIE 2021, doi:10.1109/ISIE45552.2021.9576231",
    by_hand="Get btad.zip from https://avires.dimi.uniud.it/papers/btad/btad.zip.",
    download=Download(
        "btad.zip",
        ("https://avires.dimi.uniud.it/papers/btad/btad.zip",),
        sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
    ),
)


def arrange(folder: Path) -> Files:
    """Where every file goes: `ok` becomes the normal images, `ko` stays the one defect."""
    return mvtec_tree(locate(folder, "*/train/ok"), normal="ok")


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
