"""A small store with pictures, and the report of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.callbacks.visualization import write_gallery
from anomaly_zoo.compare.report.page import write
from anomaly_zoo.compare.runs import frame
from anomaly_zoo.results import Result, load_all, save
from tests.runs import scored

METHODS = {"frozen": 0.6, "coft": 1.2, "pf": 0.9}
CATEGORIES = (("mvtec_ad", "bottle"), ("mvtec_ad", "screw"), ("elpv", "<mono>"))


def results() -> Iterator[Result]:
    """Three methods on three categories, two seeds, two numbers of shots."""
    for place, (dataset, category) in enumerate(CATEGORIES):
        for shots in (1, 8):
            for seed in (0, 1):
                for method, shift in METHODS.items():
                    rng = np.random.default_rng([place, shots, seed, len(method)])
                    scores = rng.normal(size=30) + np.repeat([0.0, shift + shots / 16], [10, 20])
                    timing = {"adapt_s": 1.0 + 10 * shift, "ms_per_image": 20 / shift}
                    per_defect = {"crack": {"image_auroc": 0.8}, "dent": {"image_auroc": 0.7}}
                    yield scored(
                        method, seed, scores.tolist(), 10, dataset=dataset, category=category, shots=shots,
                        timing=timing, per_defect=per_defect, resources={"peak_rss_mib": 900.0, "trainable_params": 0},
                    )  # fmt: skip


def draw_gallery(store: Path, run: Result) -> None:
    rng = np.random.default_rng(0)
    tiles = []
    for image in run.images[:4] + run.images[-8:]:
        mask = np.zeros((32, 32), np.uint8)
        if image["label"] and run.dataset != "elpv":
            mask[8:20, 10:24] = 255
        pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        name = "/".join(image["path"].split("/")[-3:])
        tiles.append({"path": name, "image": pixels, "mask": mask, "map": rng.normal(size=(32, 32)) + mask / 100})
    write_gallery(run.path_in(store).with_suffix("") / "gallery", tiles)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    for run in results():
        save(run, folder)
        if run.category != "screw":
            draw_gallery(folder, run)
    return folder


@pytest.fixture(scope="session")
def page(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's file."""
    file = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write(frame(load_all(store)), file, store)
    return file
