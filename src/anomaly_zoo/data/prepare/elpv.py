"""ELPV: electroluminescence images of solar cells, from the PyPI package `elpv-dataset` into the MVTec layout.

The module type becomes the category; defect probability 0 normal, 1 the defect `defective`. 1/3 and 2/3, where the
annotators were unsure, are left out unless asked for. No masks. Half of the normal cells, by a fixed draw, train.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from anomaly_zoo.data.prepare.layouts import ELPV_LABELS, elpv
from anomaly_zoo.data.prepare.public_datasets import PUBLIC_DATASETS
from anomaly_zoo.data.prepare.tree import is_finished, thin_out, write_tree

ELPV = PUBLIC_DATASETS["elpv"]
DEFAULT_LABELS = ("1",)


def prepare(
    target: Path | str,
    raw: Path | None = None,
    max_test: int | None = ELPV.max_test,
    labels: Sequence[str] = DEFAULT_LABELS,
) -> Path:
    """Writes ELPV as a dataset in the MVTec layout, and returns its folder; does nothing if it is there already.

    `raw` has `labels.csv` and `images/`, by default in the installed package. At most `max_test` normal images of a
    category are for testing, and as many of each defect; None for all. Of `ELPV_LABELS`, `labels` count as anomalous.
    """
    target = Path(target).expanduser()
    thin_out({}, max_test)  # refuses a wrong number
    if unknown := [label for label in labels if label not in ELPV_LABELS]:
        raise ValueError(f"there is no label {unknown[0]!r}: choose among {', '.join(ELPV_LABELS)}")
    chosen = [label for label in ELPV_LABELS if label in labels]
    options = {"max_test": max_test, "labels": None if chosen == list(DEFAULT_LABELS) else chosen}
    if not is_finished(target, options):
        data = _package_folder() / "data" if raw is None else raw.expanduser()
        about = {"title": ELPV.title, "source": "PyPI package elpv-dataset"}
        about |= {"licence": ELPV.licence, "citation": ELPV.citation}
        write_tree(target, dict(elpv(data, max_test, chosen)), about, options)
    return target


def _package_folder() -> Path:
    spec = importlib.util.find_spec("elpv_dataset")  # not imported: its own loader would read every image
    if spec is None or not spec.submodule_search_locations:
        install = "pip install elpv-dataset (or anomaly_zoo[embedded])"
        raise ModuleNotFoundError(f"ELPV comes from a package that is not installed: {install}")
    return Path(spec.submodule_search_locations[0])
