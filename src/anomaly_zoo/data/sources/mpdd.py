"""MPDD: six categories of painted metal parts, laid out like MVTec AD.

Jezek et al., "Deep learning-based defect detection of metal parts: evaluating current methods in complex conditions",
ICUMT 2021.
"""

from pathlib import Path

from anomaly_zoo.data.conversion import About, convert, locate, mvtec_tree
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.tree import Files

ABOUT = About(
    title="MPDD",
    licence="MPDD is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="Jezek et al., Deep learning-based defect detection of metal parts: evaluating current methods in complex "
    "conditions, ICUMT 2021, doi:10.1109/ICUMT54235.2021.9631567",
    by_hand="Follow the link to the dataset at https://github.com/stepanje/MPDD.",
    published=(888, 176, 282),
)


def arrange(folder: Path) -> Files:
    """Where every file goes: as in MVTec AD."""
    return mvtec_tree(locate(folder, "*/train/good"))


def prepare(
    target: Path | str, raw: Path | str | None = None, max_test: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the dataset; see `conversion.convert`."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)
