"""Every method on an oblong product, with several networks and scales, from the support to a checkpoint."""

from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as L
import numpy as np
import pytest
import torch

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.methods.coft import COFT
from anomaly_zoo.methods.gaussian import GaussianAD
from anomaly_zoo.methods.memory import FrozenMemory, PatchCore
from anomaly_zoo.methods.pf import PF
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.tiling import predict_tiles
from tests.conftest import write_image
from tests.methods.fitting import create, same, scores

SIZE = (240, 96)


@pytest.fixture(scope="module")
def oblong_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A long part with stripes along it; a defect is a dark square."""
    folder, rng = tmp_path_factory.mktemp("oblong") / "long", np.random.default_rng(0)
    for split, count in (("train/good", 4), ("test/good", 3), ("test/spot", 3)):
        for number in range(count):
            image = np.full((*SIZE, 3), 120, np.uint8) + rng.integers(0, 12, (*SIZE, 3), dtype=np.uint8)
            image[:, 40:50] = 200
            if split == "test/spot":
                top = 30 + 60 * number
                mask = np.zeros(SIZE, np.uint8)
                mask[top : top + 40, 30:70] = 255
                image[mask > 0] = 10
                write_image(folder / "part" / "ground_truth" / "spot" / f"{number}_mask.png", mask)
            write_image(folder / "part" / split / f"{number}.png", image)
    return folder


def run(module: AnomalyModule, data: MVTecDataModule) -> EvaluationCallback:
    evaluation = EvaluationCallback()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=-1, enable_checkpointing=False, callbacks=[evaluation], **quiet)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    return evaluation


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (FrozenMemory, {}),
        (PatchCore, {}),
        (PF, {"steps": 2}),
        (COFT, {"steps": 2}),
        (GaussianAD, {"steps": 2, "check_every": 1}),
        (COFT, {"steps": 2, "memory": False, "pretrained": False}),
        (GaussianAD, {"steps": 0, "memory": False}),
    ],
)
@pytest.mark.parametrize(
    ("name", "scales"), [("test_resnet", [1.0]), ("test_resnet", [0.5, 1.0]), ("test_resnet+test_vit", [0.5, 1.0])]
)
def test_every_method(
    method: type[AnomalyModule],
    options: dict[str, Any],
    name: str,
    scales: list[float],
    oblong_root: Path,
    tmp_path: Path,
) -> None:
    data = MVTecDataModule(oblong_root, "part", shots=4, image_size=96, batch_size=2)
    module = create(method, name, scales, **options)
    evaluation = run(module, data)
    assert data.image_shape == (160, 64)
    assert evaluation.metrics["image_auroc"] == 1
    module.trainer.save_checkpoint(tmp_path / "module.ckpt")
    loaded = method.load_from_checkpoint(tmp_path / "module.ckpt").eval()
    image = torch.rand(2, 3, 160, 64)
    found = scores(module.eval(), image)
    assert found.anomaly_map.shape == (2, 160, 64)
    assert same(scores(loaded, image), found)


def test_where_the_defect_is(oblong_root: Path) -> None:
    evaluation = run(
        create(FrozenMemory, orientations="found"), MVTecDataModule(oblong_root, "part", shots=4, image_size=128)
    )
    assert evaluation.metrics["pixel_auroc"] > 0.95
    assert evaluation.metrics["aupro"] > 0.8


def test_maps_of_any_size_are_evaluated_at_one_size(oblong_root: Path) -> None:
    shapes = set()
    for options in ({"image_size": 96}, {"image_size": 192}, {"image_size": 96, "shape": "square"}):
        data = MVTecDataModule(oblong_root, "part", shots=4, **options)
        data.setup("test")
        batch = next(iter(data.test_dataloader()))
        assert batch.image.shape[2:] == data.image_shape
        shapes.add(tuple(batch.mask.shape[1:]))
    assert shapes == {(416, 160)}


def test_tiles_of_an_oblong_image_leave_no_seam(oblong_root: Path) -> None:
    data = MVTecDataModule(oblong_root, "part", shots=4, image_size=192, tile_px=128, overlap_px=32)
    module = create(FrozenMemory)
    run(module, data)
    assert (data.image_shape, data.orientations) == ((288, 128), list(range(16)))
    assert data.tiling is not None
    flat = torch.full((1, 3, 288, 128), 0.5)
    with torch.no_grad():
        seams = predict_tiles(module.eval(), flat, data.tiling).anomaly_map
    assert seams.shape == (1, 288, 128)
    edges = seams[:, 20:-20, 20:-20].diff(dim=1).abs().max()
    assert edges < 0.5 * seams.mean()


def test_a_region_of_an_oblong_image(oblong_root: Path, tmp_path: Path) -> None:
    part = tmp_path / "long" / "part"
    part.mkdir(parents=True)
    for name in ("train", "test", "ground_truth"):
        (part / name).symlink_to(oblong_root / "part" / name, target_is_directory=True)
    (part / "region.json").write_text('{"polygons": [[[0, 0], [1, 0], [1, 0.5], [0, 0.5]]]}')
    data = MVTecDataModule(tmp_path / "long", "part", shots=4, image_size=96)
    module = create(FrozenMemory)
    run(module, data)
    (batch,) = data.test_dataloader()
    assert batch.region is not None
    assert batch.region.shape[1:] == (160, 64)
    assert batch.region[:, :80].all()
    assert not batch.region[:, 80:].any()


def test_views_of_turned_files_keep_the_shape_that_people_see(oblong_root: Path, tmp_path: Path) -> None:
    """A camera that lies on its side writes pixels of another shape, and says so."""
    image = cv2.imread(str(oblong_root / "part" / "train" / "good" / "0.png"))
    assert image is not None
    from PIL import Image

    folder = tmp_path / "turned" / "part" / "train" / "good"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(image)).save(folder / "0.jpg", exif=exif)
    data = MVTecDataModule(tmp_path / "turned", "part", shots=1, image_size=96)
    assert data.support().image.shape[2:] == (160, 64)
