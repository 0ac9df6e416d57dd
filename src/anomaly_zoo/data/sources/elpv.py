"""ELPV: electroluminescence images of solar cells, from the PyPI package `elpv-dataset` into the MVTec layout.

The package ships 2,624 grey images of 300 x 300 pixels, each with a defect probability and a module type. The type
becomes the category (`mono`, `poly`). Probability 0 becomes normal and 1 the defect `defective`; 1/3 and 2/3, where the
annotators were unsure, are left out. There are no masks. One half of the normal cells, by a fixed draw, goes to
`train/good`.

Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images",
Solar Energy 185, 2019.
"""

import importlib.util
import json
import os
import shutil
import uuid
from pathlib import Path

from anomaly_zoo.data.images import image_files
from anomaly_zoo.data.support import seeded_permutation

CATEGORIES = ("mono", "poly")

LICENCE = "ELPV is licensed CC BY-NC-SA 4.0: attribution, non-commercial use, share alike."

CITATION = """\
Buerhop-Lutz et al., A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence Imagery, \
EU PVSEC 2018, doi:10.4229/35thEUPVSEC20182018-5CV.3.15
Deitsch et al., Automatic classification of defective photovoltaic module cells in electroluminescence images, \
Solar Energy 185, 2019, doi:10.1016/j.solener.2019.02.067
Deitsch et al., Segmentation of photovoltaic module cells in uncalibrated electroluminescence images, \
Machine Vision and Applications 32, 2021, doi:10.1007/s00138-021-01191-9"""

_NUM_IMAGES = 2624
_FINISHED = "source.json"

Split = dict[str, list[Path]]
"""The images of every folder of the tree, such as `mono/train/good`."""


def prepare(target: Path | str, max_test: int | None = 80) -> Path:
    """Writes ELPV as a dataset in the MVTec layout; does nothing if it is there already.

    The tree is built beside `target` and renamed when it is complete, so a killed conversion leaves nothing that looks
    finished (only a hidden folder `.<target>.*.tmp`, which may be deleted), and several processes may call this at
    once. Files are hard links where the file system allows it. The caller should show `LICENCE` and `CITATION` once.

    Args:
        target: folder to create, best named `elpv`, since a dataset is named by its folder.
        max_test: at most this many normal and this many anomalous test images per category, by a fixed draw, to keep
            benchmarks quick; None for all of them.

    Returns:
        `target`.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileExistsError: `target` holds something else, or a conversion with another `max_test`.
        ValueError: `max_test` is below 1, or the installed package does not hold what it should.
    """
    target = Path(target).expanduser()
    if max_test is not None and max_test < 1:
        raise ValueError(f"max_test is {max_test}: choose 1 or more, or None for every image")
    if _is_finished(target, max_test):
        return target
    package = _package_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        _build(building, _split(package / "data", max_test), max_test)
        _move(building, target, max_test)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _is_finished(target: Path, max_test: int | None) -> bool:
    """Whether the conversion is there; raises if something else is."""
    marker = target / _FINISHED
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8")).get("max_test", "missing")
        if found == max_test:
            return True
        raise FileExistsError(f"{target} was made with max_test={found}, not {max_test}: delete it or choose another")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not a finished ELPV conversion: delete it or choose another")
    return False


def _package_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")  # not imported: its own loader would read every image
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "ELPV comes from a package that is not installed: pip install elpv-dataset (or anomaly_zoo[embedded])"
        )
    return Path(spec.submodule_search_locations[0])


def _split(data: Path, max_test: int | None) -> Split:
    """Decides which image goes where."""
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(rows) != _NUM_IMAGES:
        raise ValueError(f"{data} lists {len(rows)} images instead of {_NUM_IMAGES}: reinstall elpv-dataset")
    split: Split = {}
    for category in CATEGORIES:
        normal, anomalous = (
            sorted(data / name for name, probability, kind in rows if kind == category and float(probability) == value)
            for value in (0.0, 1.0)
        )
        normal = [normal[index] for index in seeded_permutation(len(normal), "elpv", category, "normal")]
        anomalous = [anomalous[index] for index in seeded_permutation(len(anomalous), "elpv", category, "anomalous")]
        half = len(normal) // 2
        split[f"{category}/train/good"] = normal[:half]
        split[f"{category}/test/good"] = normal[half:][:max_test]
        split[f"{category}/test/defective"] = anomalous[:max_test]
    return split


def _build(building: Path, split: Split, max_test: int | None) -> None:
    for name, files in split.items():
        folder = building / name
        folder.mkdir(parents=True)
        for file in files:
            _link_or_copy(file, folder / file.name)
        if len(image_files(folder)) != len(files) or not files:
            raise ValueError(f"{folder} should hold {len(files)} images, not {len(image_files(folder))}")
    about = {
        "source": "PyPI package elpv-dataset",
        "licence": LICENCE,
        "citation": CITATION,
        "max_test": max_test,
        "images": {name: len(files) for name, files in split.items()},
    }
    (building / _FINISHED).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _link_or_copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise ValueError(f"{source} is missing: reinstall elpv-dataset")
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _move(building: Path, target: Path, max_test: int | None) -> None:
    if target.is_dir() and os.name == "nt" and not any(target.iterdir()):
        target.rmdir()  # Windows renames onto nothing, not even onto an empty folder
    try:
        building.replace(target)
    except OSError:
        if not _is_finished(target, max_test):  # else another process was faster, and made the same
            raise
