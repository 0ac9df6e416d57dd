import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.prepare import own_folder
from anomaly_zoo.data.prepare.tree import Files
from tests.conftest import write_image


@pytest.fixture
def folder(tiny_root: Path, tmp_path: Path) -> Path:
    """10 normal images, defects large and small with masks: as a user would keep them."""
    parts = tmp_path / "bracket"
    shutil.copytree(tiny_root / "alpha" / "train" / "good", parts / "normal")
    for path in image_files(tiny_root / "beta" / "train" / "good")[:4]:
        shutil.copy(path, parts / "normal" / f"b{path.name}")
    for defect in ("large", "small"):
        shutil.copytree(tiny_root / "alpha" / "test" / defect, parts / "anomalous" / defect)
        shutil.copytree(tiny_root / "alpha" / "ground_truth" / defect, parts / "masks" / defect)
    return parts


def folders(files: Files) -> Counter[str]:
    return Counter(place.rpartition("/")[0].removeprefix("bracket/") for place in files)


def test_by_defect_with_masks(folder: Path, tmp_path: Path) -> None:
    target = own_folder.prepare(folder, tmp_path / "datasets" / "bracket")
    dataset = MVTecDataset(target, "bracket", (48, 48))
    assert dataset.defects == ["large", "small"]
    assert dataset.has_masks
    assert Counter(dataset.labels) == {True: 6, False: 5}
    for index, label in enumerate(dataset.labels):
        item = dataset[index]
        assert bool(item.mask.any()) == label
        if label:
            assert item.views[0][item.mask[0]].mean() > 200
    assert len(image_files(target / "bracket" / "train" / "good")) == 5
    assert own_folder.prepare(folder, target) == target


def test_flat_without_masks(folder: Path) -> None:
    shutil.rmtree(folder / "masks")
    for path in image_files(folder / "anomalous" / "large"):
        path.rename(folder / "anomalous" / f"flat_{path.name}")
    shutil.rmtree(folder / "anomalous" / "large")
    shutil.rmtree(folder / "anomalous" / "small")
    assert folders(own_folder.arrange(folder)) == {"train/good": 5, "test/good": 5, "test/anomalous": 3}


def test_flat_masks(folder: Path) -> None:
    for defect in ("large", "small"):
        for kind in ("anomalous", "masks"):
            for path in image_files(folder / kind / defect):
                path.rename(folder / kind / f"{defect}_{path.name}")
            (folder / kind / defect).rmdir()
    found = folders(own_folder.arrange(folder))
    assert found["test/anomalous"] == found["ground_truth/anomalous"] == 6


def test_without_anomalous_images_all_but_the_metrics_works(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "anomalous")
    shutil.rmtree(folder / "masks")
    target = own_folder.prepare(folder, tmp_path / "datasets" / "bracket", num_train=8)
    data = MVTecDataModule(target, "bracket", shots=8, image_size=32)
    data.setup("predict")
    assert sum(len(batch.path) for batch in data.predict_dataloader()) == 2
    assert data.support().image.shape[0] == 8


def test_regions_come_along(folder: Path, tmp_path: Path) -> None:
    (folder / "region.json").write_text('{"polygons": [[[0, 0], [1, 0], [1, 1]]]}')
    target = own_folder.prepare(folder, tmp_path / "a" / "bracket")
    assert MVTecDataset(target, "bracket", (32, 32))[0].region is not None
    (folder / "region.json").unlink()
    for path in [p for name in ("normal", "anomalous") for p in sorted((folder / name).rglob("*.png"))]:
        write_image(folder / "region" / path.relative_to(folder), np.full((48, 48), 255, np.uint8))
    target = own_folder.prepare(folder, tmp_path / "b" / "bracket")
    region = MVTecDataset(target, "bracket", (32, 32))[0].region
    assert region is not None
    assert region.all()
    (folder / "region" / "normal" / "001.png").unlink()
    with pytest.raises(ValueError, match=r"normal/001\.png has no region, though other images of bracket have one"):
        own_folder.prepare(folder, tmp_path / "c")


def test_a_folder_that_changed_is_not_passed_off_as_the_old_one(folder: Path, tmp_path: Path) -> None:
    target = own_folder.prepare(folder, tmp_path / "datasets" / "bracket")
    shutil.copy(folder / "normal" / "000.png", folder / "normal" / "new.png")
    with pytest.raises(FileExistsError, match=r"bracket was made with num_files=22, not 23: delete it"):
        own_folder.prepare(folder, target)
    (folder / "normal" / "new.png").unlink()
    os.utime(folder / "normal" / "000.png", (4e9, 4e9))
    with pytest.raises(FileExistsError, match=r"newest_file=20\d\d-.*, not 2096-10-02T07:06:40\+00:00: delete it"):
        own_folder.prepare(folder, target)


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "masks" / "small" / "001_mask.png").unlink()
    with pytest.raises(ValueError, match=r"small/001\.png has no mask, though .*add 001_mask\.png .*\(or move"):
        own_folder.prepare(folder, tmp_path / "new")
    shutil.rmtree(folder / "masks")
    (folder / "anomalous" / "small").rename(folder / "anomalous" / "good")
    with pytest.raises(ValueError, match=r"anomalous/good would count as anomalous: move its images to .*/normal, or"):
        own_folder.arrange(folder)
    with pytest.raises(ValueError, match=r"num_train is 11: choose 1 to 10"):
        own_folder.arrange(folder, num_train=11)
    (tmp_path / "empty" / "normal").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"normal holds no images: put the normal ones there"):
        own_folder.arrange(tmp_path / "empty")


def test_a_mask_is_not_shared_by_images_of_two_defects(folder: Path, tmp_path: Path) -> None:
    for path in image_files(folder / "masks" / "large"):
        path.rename(folder / "masks" / path.name)
    shutil.rmtree(folder / "masks" / "small")
    with pytest.raises(ValueError, match=r"large/000\.png has no mask, though .*\(and 5 more: python -m .* check "):
        own_folder.prepare(folder, tmp_path / "new")
    places = own_folder.arrange(folder)
    assert sorted(place for place in places if "ground_truth" in place) == [
        f"bracket/ground_truth/unused/00{number}_mask.png" for number in range(3)
    ]


def test_other_files_beside_the_masks(folder: Path) -> None:
    for name in ("000.json", "._000.png", "notes.txt", "zzz.png"):
        (folder / "masks" / "large" / name).write_text("{}")
    places = own_folder.arrange(folder)
    assert {Path(place).suffix for place in places} == {".png"}
    assert Counter(place.split("/")[2] for place in places if "ground_truth" in place) == {
        "large": 3, "small": 3, "unused": 1}  # fmt: skip


def test_normal_images_in_folders_of_their_own(folder: Path) -> None:
    (folder / "normal").rename(folder / "monday")
    (folder / "normal").mkdir()
    (folder / "monday").rename(folder / "normal" / "monday")
    with pytest.raises(FileNotFoundError, match=r"normal holds no images: move those in .*normal/monday up"):
        own_folder.arrange(folder)


def test_fewer_test_images_with_a_region(folder: Path, tmp_path: Path) -> None:
    (folder / "region.json").write_text('{"polygons": [[[0, 0], [1, 0], [1, 1]]]}')
    target = own_folder.prepare(folder, tmp_path / "few" / "bracket", max_test=2)
    assert len(MVTecDataset(target, "bracket", (32, 32))) == 4
