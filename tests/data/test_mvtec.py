import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from anomaly_zoo.data import dataset, mvtec
from anomaly_zoo.data.images import read_image
from anomaly_zoo.data.mvtec import TRAIN_BATCHES, MVTecDataModule
from anomaly_zoo.data.support import support_paths
from anomaly_zoo.data.transforms import resize
from anomaly_zoo.types import Batch

# Python 3.12 and later warn of any fork beside threads, which PyTorch's workers are
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def module(root: Path, **options: Any) -> MVTecDataModule:
    return MVTecDataModule(root, **{"category": "alpha", "shots": 4, "image_size": 32, **options})


def batches(loader: Any, count: int = 10**6) -> list[Batch]:
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.path == second.path
    for name in ("image", "mask", "label"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_setup_draws_and_looks_around(tiny_root: Path) -> None:
    data = module(tiny_root, seed=1)
    assert (data.support_files, data.defects, data.has_masks) == ([], [], False)
    data.setup("fit")
    assert data.support_files == support_paths(tiny_root, "tiny", "alpha", 4, 1)
    assert data.defects == ["large", "small"]
    assert data.has_masks
    before = data.support_files
    data.setup("test")
    assert data.support_files is before


def test_the_dataset_is_named_by_its_folder(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_root / "alpha")
    for root in (tiny_root, str(tiny_root), Path(".."), "../../tiny"):
        assert MVTecDataModule(root, "alpha").dataset == "tiny"
    monkeypatch.chdir(tiny_root)
    assert MVTecDataModule(".", "alpha").dataset == "tiny"
    assert MVTecDataModule(tiny_root, "alpha", dataset="other").dataset == "other"


def test_support_views(tiny_root: Path) -> None:
    data = module(tiny_root)
    plain, augmented = data.support(), data.support(views=3)
    assert plain.image.shape == (4, 3, 32, 32)
    assert augmented.image.shape == (12, 3, 32, 32)
    assert torch.equal(augmented.image[::3], plain.image)
    assert augmented.path == [str(path) for path in data.support_files for _ in range(3)]
    assert not augmented.label.any()
    assert not augmented.mask.any()
    for file, image in zip(data.support_files, plain.image, strict=True):
        np.testing.assert_array_equal((image * 255).round().byte().permute(1, 2, 0), resize(read_image(file), (32, 32)))
    assert len({view.numpy().tobytes() for view in augmented.image}) == 12
    assert_equal(augmented, module(tiny_root).support(views=3))
    more = module(tiny_root, shots=6).support(views=3)
    assert_equal(augmented, Batch(more.image[:12], more.mask[:12], more.label[:12], more.path[:12]))
    assert not torch.equal(augmented.image, module(tiny_root, seed=1).support(views=3).image)


def test_support_images_are_read_once(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(dataset, "read_image", counting)
    data = module(tiny_root)
    data.setup("fit")
    assert read == []
    data.support()
    data.support(2)
    batches(data.train_dataloader(), 2)
    assert read == data.support_files


def test_train_batches(tiny_root: Path) -> None:
    data = module(tiny_root, batch_size=3, views=2)
    loader = data.train_dataloader()
    assert len(loader) == TRAIN_BATCHES
    plain = {image.numpy().tobytes() for image in data.support().image}
    files = {str(path) for path in data.support_files}
    for batch in batches(loader, 8):
        assert batch.image.shape == (6, 3, 32, 32)
        assert 0 <= batch.image.min() < batch.image.max() <= 1
        assert batch.path[::2] == batch.path[1::2]
        assert len(set(batch.path)) == 3
        assert set(batch.path) <= files
        assert not batch.label.any()
        assert not batch.mask.any()
        assert not plain & {image.numpy().tobytes() for image in batch.image}


def test_batch_size_may_exceed_the_shots(tiny_root: Path) -> None:
    batch = batches(module(tiny_root, shots=1, batch_size=4, views=1).train_dataloader(), 1)[0]
    assert batch.image.shape[0] == 4
    assert len({image.numpy().tobytes() for image in batch.image}) == 4


def test_batches_follow_the_seed(tiny_root: Path) -> None:
    first = batches(module(tiny_root).train_dataloader(), 3)
    torch.manual_seed(5)
    for one, two in zip(first, batches(module(tiny_root).train_dataloader(), 3), strict=True):
        assert_equal(one, two)
    assert not torch.equal(first[0].image, batches(module(tiny_root, seed=1).train_dataloader(), 1)[0].image)


@forks
def test_workers_change_nothing(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mvtec, "TRAIN_BATCHES", 6)
    alone, helped = module(tiny_root), module(tiny_root, num_workers=2)
    for name in ("train_dataloader", "test_dataloader"):
        pairs = zip(batches(getattr(alone, name)()), batches(getattr(helped, name)()), strict=True)
        for one, two in pairs:
            assert_equal(one, two)


def test_test_batches(tiny_root: Path) -> None:
    data = module(tiny_root, test_batch_size=4)
    tested, predicted = batches(data.test_dataloader()), batches(data.predict_dataloader())
    assert [len(batch.path) for batch in tested] == [4, 4, 1]
    for one, two in zip(tested, predicted, strict=True):
        assert_equal(one, two)
    paths = [path for batch in tested for path in batch.path]
    assert paths == sorted(paths)
    label = torch.cat([batch.label for batch in tested])
    mask = torch.cat([batch.mask for batch in tested])
    assert label.tolist() == [Path(path).parent.name != "good" for path in paths]
    assert torch.equal(mask.flatten(1).any(dim=1), label)
    assert mask.shape == (9, 256, 256)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_images(tiny_root: Path, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mvtec, "TRAIN_BATCHES", 5)
    paths: list[str] = []
    draws: set[bytes] = set()
    for rank in range(world_size):
        data = module(tiny_root)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, strategy=strategy)  # type: ignore[assignment]
        paths += [path for batch in batches(data.test_dataloader()) for path in batch.path]
        trained = batches(data.train_dataloader())
        assert [len(set(batch.path)) for batch in trained] == [4] * 5
        draws |= {image.numpy().tobytes() for batch in trained for image in batch.image}
    assert len(draws) == world_size * 5 * 4 * 2
    assert len(paths) == 9
    assert len(set(paths)) == 9


class Recorder(L.LightningModule):
    """Only notes which images it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[str] = []
        self.tested: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trained += batch.path
        return self.weight * batch.image.mean()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.tested += batch.path

    def predict_step(self, batch: Batch, batch_idx: int) -> list[str]:
        return batch.path

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # Lightning 2.6 beside PyTorch 2.14
def test_lightning_takes_every_loader(tiny_root: Path, tmp_path: Path) -> None:
    data, recorder = module(tiny_root), Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, datamodule=data)
    assert recorder.trained == [
        path for batch in batches(module(tiny_root).train_dataloader(), 3) for path in batch.path
    ]
    trainer.test(recorder, datamodule=data)
    predicted = trainer.predict(recorder, datamodule=data)
    assert predicted is not None
    assert [path for paths in predicted for path in paths] == recorder.tested
    assert len(set(recorder.tested)) == 9


@pytest.mark.parametrize("name", ["image_size", "batch_size", "views", "test_batch_size"])
def test_numbers_out_of_range(tiny_root: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is 0: choose 1 or more"):
        module(tiny_root, **{name: 0}).setup("fit")
    with pytest.raises(ValueError, match=r"num_workers is -1: choose 0 or more"):
        module(tiny_root, num_workers=-1).setup("fit")
    with pytest.raises(ValueError, match=r"shots is 7, but .* holds 6 normal images"):
        module(tiny_root, shots=7).setup("fit")
    with pytest.raises(ValueError, match=r"views is 0: choose 1 or more"):
        module(tiny_root).support(0)


def test_missing_folders(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        module(tmp_path / "nowhere").setup("fit")
    with pytest.raises(FileNotFoundError, match="choose one of alpha, beta"):
        module(tiny_root, category="gamma").setup("fit")


def test_test_images_may_be_missing_for_fit_only(tiny_root: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_root / "alpha" / "train", tmp_path / "alpha" / "train")
    data = module(tmp_path)
    data.setup("fit")
    assert (data.defects, data.has_masks) == ([], False)
    assert data.support().image.shape[0] == 4
    for stage in ("test", "predict"):
        with pytest.raises(FileNotFoundError, match=r"test holds no test images: put them into .*good and .*<defect>"):
            data.setup(stage)
    with pytest.raises(FileNotFoundError, match="holds no test images"):
        data.test_dataloader()


def test_a_damaged_support_image_is_named(tiny_root: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_root / "alpha", tmp_path / "alpha")
    data = module(tmp_path)
    data.setup("fit")
    data.support_files[2].write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{data.support_files[2].name} as an image \(0 bytes\)"):
        data.support()


REAL = {
    "mvtec_ad/bottle": (83, ["broken_large", "broken_small", "contamination"]),
    "mvtec_ad/screw": (158, ["manipulated_front", "scratch_head", "scratch_neck", "thread_side", "thread_top"]),
    "other/hazelnut_toy": (23, ["colour"]),
    "other/magnetic_tile": (230, ["blowhole", "break", "crack", "fray", "uneven"]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_images(shared_data: Path, name: str) -> None:
    folder = shared_data / name
    data = MVTecDataModule(folder.parent, folder.name, shots=8, image_size=64)
    tested = batches(data.test_dataloader())
    assert (sum(len(batch.path) for batch in tested), data.defects) == REAL[name]
    assert data.has_masks
    assert not any((batch.mask.flatten(1).any(dim=1) & ~batch.label).any() for batch in tested)
    assert data.support(2).image.shape == (16, 3, 64, 64)


def test_reading_is_no_bottleneck(shared_data: Path) -> None:
    data = MVTecDataModule(shared_data / "mvtec_ad", "bottle")
    seconds = []
    for _ in range(3):
        start = time.process_time()  # of the processor, so that a busy machine does not matter
        assert len(batches(data.test_dataloader())) == 6
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.5
