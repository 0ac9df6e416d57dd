"""Few-shot results that other people published on MVTec AD. Never mixed with ours: other backbones, sizes and supports.

All figures are quoted second hand, from tables that compare methods, and were not measured here. They are image AUROC
(and AUPRO where given) in percent, means over the 15 categories of MVTec AD.
"""

from collections.abc import Collection
from dataclasses import dataclass

from anomaly_zoo.tables import MISSING, Block, Mark

SHOTS = (1, 2, 4, 8)
CAPTION = (
    "PUBLISHED by others on MVTec AD, quoted second hand, not measured here and not comparable with the rows above"
)
_DATASETS = frozenset({"mvtec", "mvtec_ad"})


@dataclass(frozen=True)
class Published:
    """One method: percentages at `SHOTS`, None where there is none, and where it was published."""

    method: str
    image_auroc: tuple[float | None, ...]
    source: str
    aupro: tuple[float | None, ...] = (None, None, None, None)


PUBLISHED = (
    Published("PatchCore", (83.4, 86.3, 88.8, None), "Roth et al., CVPR 2022, arXiv 2106.08265"),
    Published("GraphCore", (89.9, 91.9, 92.9, 95.9), "Xie et al., ICLR 2023, arXiv 2301.12082"),
    Published("RegAD", (82.4, 85.7, 88.2, 91.2), "Huang et al., ECCV 2022, arXiv 2207.07361"),
    Published(
        "WinCLIP+", (93.1, 94.4, 95.2, None), "Jeong et al., CVPR 2023, arXiv 2303.14814", (87.1, 88.4, 89.0, None)
    ),
    Published("APRIL-GAN", (92.0, 92.4, 92.8, 93.1), "Chen et al., 2023, arXiv 2305.17382"),
    Published("PromptAD", (94.6, 95.7, 96.6, None), "Li et al., CVPR 2024, arXiv 2404.05231"),
    Published(
        "AnomalyDINO-S", (96.6, 96.9, 97.7, 98.2), "Damm et al., WACV 2025, arXiv 2405.14529", (92.7, 93.1, 93.4, 93.8)
    ),
    Published("SubspaceAD", (97.1, 97.5, 98.0, None), "Lendering et al., 2026, arXiv 2602.23013"),
    Published("VisionAD", (97.4, 98.1, 98.6, None), "2025, arXiv 2504.11895"),
    Published("UniVAD", (97.8, None, None, None), "Gu et al., CVPR 2025, arXiv 2412.03342"),
)


def concerns(datasets: Collection[str]) -> bool:
    """Whether these are numbers on one of the datasets."""
    return not _DATASETS.isdisjoint(datasets)


def block() -> Block:
    """The table: image AUROC, then AUPRO where it was given, in percent."""
    rows = []
    for entry in PUBLISHED:
        for metric, values in (("image AUROC", entry.image_auroc), ("AUPRO", entry.aupro)):
            if any(value is not None for value in values):
                shown = [Mark(MISSING if value is None else f"{value:.1f}") for value in values]
                rows.append([Mark(entry.method), Mark(metric), *shown, Mark(entry.source, None, True)])
    return Block(
        CAPTION,
        ["method", "percent", *("1 shot" if shots == 1 else f"{shots} shots" for shots in SHOTS), "source"],
        rows,
    )
