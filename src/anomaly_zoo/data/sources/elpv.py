"""ELPV: electroluminescence images of solar cells, from the PyPI package `elpv-dataset` into the MVTec layout.

The package ships 2,624 grey images of 300 x 300 pixels, each with a defect probability and a module type. The type
becomes the category (`mono`, `poly`). Probability 0 becomes normal and 1 the defect `defective`; 1/3 and 2/3, where the
annotators were unsure, are left out unless they are asked for. There are no masks. One half of the normal cells, by a
fixed draw, goes to `train/good`.

Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images",
Solar Energy 185, 2019.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from anomaly_zoo.data.conversion import About, locate
from anomaly_zoo.data.download import Progress
from anomaly_zoo.data.support import seeded_permutation
from anomaly_zoo.data.tree import is_finished, write_tree

CATEGORIES = ("mono", "poly")

LICENCE = "ELPV is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike."

CITATION = """\
Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery, \
EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15
Deitsch et al., Automatic classification of defective photovoltaic module cells in electroluminescence images, \
Solar Energy 185, 2019, doi:10.1016/j.solener.2019.02.067
Deitsch et al., Segmentation of photovoltaic module cells in uncalibrated electroluminescence images, \
Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9"""

ABOUT = About(
    title="ELPV",
    licence=LICENCE,
    citation=CITATION,
    by_hand="Install the package elpv-dataset (or anomaly_zoo[embedded]); nothing else is needed.",
    published=(754, 754, 715),
)

LABELS = {"1": "defective", "2/3": "probably_defective", "1/3": "possibly_defective"}
"""Defect probabilities that may count as anomalous, and the defects that they become."""

DEFAULT_LABELS = ("1",)
DEFAULT_MAX_TEST = 80

_NUM_IMAGES = 2624
_PROBABILITY = {"1": 1.0, "2/3": 2 / 3, "1/3": 1 / 3}

Split = dict[str, Path]
"""The images by their places in the tree, such as `mono/train/good/cell0001.png`."""


def prepare(
    target: Path | str,
    raw: Path | str | None = None,
    max_test: int | None = DEFAULT_MAX_TEST,
    progress: Progress | None = None,
    labels: Sequence[str] = DEFAULT_LABELS,
) -> Path:
    """Writes ELPV as a dataset in the MVTec layout; does nothing if it is there already.

    The tree is built beside `target` and renamed when it is complete, so a killed conversion leaves nothing that looks
    finished (only a hidden folder `.<target>.*.tmp`, which may be deleted), and several processes may call this at
    once. Files are hard links where the file system allows it. The caller should show `LICENCE` and `CITATION` once.

    Args:
        target: folder to create, best named `elpv`, since a dataset is named by its folder.
        raw: a folder with `labels.csv` and `images/`; by default that of the installed package.
        max_test: at most this many normal test images per category, and of each defect, by a fixed draw, to keep
            benchmarks quick; None for all of them.
        progress: not used; there is nothing to download.
        labels: which of `LABELS` count as anomalous; the others are left out.

    Returns:
        `target`.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileExistsError: `target` holds something else, or a conversion with another `max_test` or other `labels`.
        ValueError: `max_test` is below 1, a label is unknown, or the images are not what they should be.
    """
    del progress
    target = Path(target).expanduser()
    if max_test is not None and max_test < 1:
        raise ValueError(f"max_test is {max_test}: choose 1 or more, or None for every image")
    if unknown := [label for label in labels if label not in LABELS]:
        raise ValueError(f"there is no label {unknown[0]!r}: choose among {', '.join(LABELS)}")
    chosen = [label for label in LABELS if label in labels]
    # Conversions from before there was a choice do not name it
    options = {"max_test": max_test, "labels": None if chosen == list(DEFAULT_LABELS) else chosen}
    if not is_finished(target, options):
        data = _package_folder() / "data" if raw is None else locate(Path(raw).expanduser(), "labels.csv", "images")
        about = {"title": ABOUT.title, "source": "PyPI package elpv-dataset", "licence": LICENCE, "citation": CITATION}
        write_tree(target, _split(data, max_test, chosen), about, options)
    return target


def _package_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")  # not imported: its own loader would read every image
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "ELPV comes from a package that is not installed: pip install elpv-dataset (or anomaly_zoo[embedded])"
        )
    return Path(spec.submodule_search_locations[0])


def _split(data: Path, max_test: int | None, labels: Sequence[str]) -> Split:
    """Decides which image goes where."""
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(rows) != _NUM_IMAGES:
        raise ValueError(f"{data} lists {len(rows)} images instead of {_NUM_IMAGES}: reinstall elpv-dataset")
    split: Split = {}
    for category in CATEGORIES:
        cells = [(data / name, float(probability)) for name, probability, kind in rows if kind == category]
        normal = _drawn(cells, 0.0, category, "normal")
        half = len(normal) // 2
        folders = {"train/good": normal[:half], "test/good": normal[half:][:max_test]}
        for label in labels:
            kind = "anomalous" if label == "1" else LABELS[label]  # names the draw
            folders[f"test/{LABELS[label]}"] = _drawn(cells, _PROBABILITY[label], category, kind)[:max_test]
        for folder, files in folders.items():
            split |= {f"{category}/{folder}/{file.name}": file for file in files}
    return split


def _drawn(cells: Sequence[tuple[Path, float]], probability: float, category: str, kind: str) -> list[Path]:
    """The cells of one probability, in the order of a fixed draw."""
    files = sorted(file for file, value in cells if abs(value - probability) < 0.01)
    return [files[index] for index in seeded_permutation(len(files), "elpv", category, kind)]
