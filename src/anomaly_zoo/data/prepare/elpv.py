"""ELPV: electroluminescence images of solar cells, from the PyPI package `elpv-dataset` into the MVTec layout.

The package ships 2,624 grey images of 300 x 300 pixels, each with a defect probability and a module type. The type
becomes the category (`mono`, `poly`). Probability 0 becomes normal and 1 the defect `defective`; 1/3 and 2/3, where the
annotators were unsure, are left out unless they are asked for. There are no masks. One half of the normal cells, by a
fixed draw, goes to `train/good`.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from anomaly_zoo.data.prepare.conversion import PublicDataset
from anomaly_zoo.data.prepare.places import locate, placed
from anomaly_zoo.data.prepare.tree import check_max_test, is_finished, write_tree
from anomaly_zoo.data.support import seeded_permutation

CATEGORIES = ("mono", "poly")

LABELS = {"1": "defective", "2/3": "probably_defective", "1/3": "possibly_defective"}
"""Defect probabilities that may count as anomalous, and the defects that they become."""

DEFAULT_LABELS = ("1",)
DEFAULT_MAX_TEST = 80

_NUM_IMAGES = 2624
_PROBABILITY = {"1": 1.0, "2/3": 2 / 3, "1/3": 1 / 3}


def prepare(
    target: Path | str,
    raw: Path | None = None,
    max_test: int | None = DEFAULT_MAX_TEST,
    labels: Sequence[str] = DEFAULT_LABELS,
) -> Path:
    """Writes ELPV as a dataset in the MVTec layout, and returns its folder; does nothing if it is there already.

    The caller should show licence and citation once.

    Args:
        target: folder to create, best named `elpv`, since a dataset is named by its folder.
        raw: a folder with `labels.csv` and `images/`; by default that of the installed package.
        max_test: at most this many normal test images per category, and of each defect, by a fixed draw, to keep
            benchmarks quick; None for all of them.
        labels: which of `LABELS` count as anomalous; the others are left out.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileExistsError: `target` holds something else, or a conversion with other options.
        ValueError: `max_test` is below 1, a label is unknown, or the images are not what they should be.
    """
    target = Path(target).expanduser()
    check_max_test(max_test)
    if unknown := [label for label in labels if label not in LABELS]:
        raise ValueError(f"there is no label {unknown[0]!r}: choose among {', '.join(LABELS)}")
    chosen = [label for label in LABELS if label in labels]
    # Conversions from before there was a choice do not name it
    options = {"max_test": max_test, "labels": None if chosen == list(DEFAULT_LABELS) else chosen}
    if not is_finished(target, options):
        data = _package_folder() / "data" if raw is None else raw.expanduser()
        about = {"title": ELPV.title, "source": "PyPI package elpv-dataset"}
        about |= {"licence": ELPV.licence, "citation": ELPV.citation}
        write_tree(target, dict(arrange(data, max_test, chosen)), about, options)
    return target


def arrange(
    folder: Path, max_test: int | None = DEFAULT_MAX_TEST, labels: Sequence[str] = DEFAULT_LABELS
) -> Iterator[tuple[str, Path]]:
    """Where every image goes, as `labels.csv` says: name, probability and module type."""
    root = locate(folder, "labels.csv")
    rows = [line.split() for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(rows) != _NUM_IMAGES:
        raise ValueError(f"{root} lists {len(rows)} images instead of {_NUM_IMAGES}: reinstall elpv-dataset")
    for category in CATEGORIES:
        cells = [(root / name, float(probability)) for name, probability, kind in rows if kind == category]
        normal = _shuffled(cells, 0.0, category, "normal")
        half = len(normal) // 2
        yield from placed(f"{category}/train/good", normal[:half])
        yield from placed(f"{category}/test/good", normal[half:][:max_test])
        for label in labels:
            kind = "anomalous" if label == "1" else LABELS[label]  # names the draw
            anomalous = _shuffled(cells, _PROBABILITY[label], category, kind)
            yield from placed(f"{category}/test/{LABELS[label]}", anomalous[:max_test])


def _package_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")  # not imported: its own loader would read every image
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "ELPV comes from a package that is not installed: pip install elpv-dataset (or anomaly_zoo[embedded])"
        )
    return Path(spec.submodule_search_locations[0])


def _shuffled(cells: Sequence[tuple[Path, float]], probability: float, category: str, kind: str) -> list[Path]:
    """The cells of one probability, in the order of a fixed draw."""
    files = sorted(file for file, value in cells if abs(value - probability) < 0.01)
    return [files[index] for index in seeded_permutation(len(files), "elpv", category, kind)]


ELPV = PublicDataset(
    title="ELPV",
    licence="ELPV is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike.",
    citation="""\
Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery, \
EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15
Deitsch et al., Automatic classification of defective photovoltaic module cells in electroluminescence images, \
Solar Energy 185, 2019, doi:10.1016/j.solener.2019.02.067
Deitsch et al., Segmentation of photovoltaic module cells in uncalibrated electroluminescence images, \
Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9""",
    by_hand="Install the package elpv-dataset (or anomaly_zoo[embedded]); nothing else is needed.",
    arrange=arrange,
    published=(754, 754, 715),
    max_test=DEFAULT_MAX_TEST,
)
