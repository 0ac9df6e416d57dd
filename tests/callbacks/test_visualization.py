import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import lightning.pytorch as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anomaly_zoo.callbacks.visualization import VisualizationCallback, panel
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.pictures import Scale, colour
from anomaly_zoo.types import Batch, Prediction
from tests.callbacks.brightness import Brightness

GREEN = (0, 255, 0)
UNIT = Scale(0.0, 0.5)
NO_MASK = torch.zeros(30, 40, dtype=torch.bool)


def visualize(root: Path, folder: Path, num_images: int = 2, category: str = "alpha") -> VisualizationCallback:
    callback = VisualizationCallback(folder, num_images)
    trainer = L.Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False)
    data = MVTecDataModule(root, category, image_size=64, shots=4, test_batch_size=2)
    trainer.test(Brightness(), datamodule=data, verbose=False)
    return callback


def drive(callback: VisualizationCallback, anomaly_map: Tensor, is_global_zero: bool = True) -> list[np.ndarray]:
    """Shows black images with these maps to the callback and reads the pictures that it writes."""
    fake = Mock(spec=L.Trainer, is_global_zero=is_global_zero)
    count, height, width = anomaly_map.shape
    none = torch.zeros(count, height, width, dtype=torch.bool)
    paths = [f"test/good/{index:03}.png" for index in range(count)]
    batch = Batch(torch.zeros(count, 3, height, width), none, none.flatten(1).any(dim=1), paths)
    callback.on_test_start(fake, Brightness())
    callback.on_test_batch_end(fake, Brightness(), Prediction(anomaly_map, anomaly_map.amax(dim=(1, 2))), batch, 0)
    callback.on_test_end(fake, Brightness())
    return [read(file) for file in callback.files]


def read(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture)


def thirds(picture: np.ndarray) -> list[np.ndarray]:
    return np.split(picture, 3, axis=1)


def photo(height: int = 30, width: int = 40) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def heat_of(colours: np.ndarray) -> np.ndarray:
    """Position in the colour map of colours that were laid over black."""
    ramp = colour(np.linspace(0, 1, 256), UNIT).astype(float)
    return np.asarray(np.abs(ramp - 2.0 * colours[..., None, :]).sum(axis=-1).argmin(axis=-1))


def test_first_images_of_every_kind_are_drawn(tiny_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    callback = visualize(tiny_root, folder)
    names = [f"{kind}_{number}.png" for kind in ("good", "large", "small") for number in ("000", "001")]
    assert [file.name for file in callback.files] == names
    assert sorted(folder.iterdir()) == sorted(callback.files)
    data = MVTecDataModule(tiny_root, "alpha", image_size=64, shots=4, test_batch_size=9)
    (batch,) = data.test_dataloader()
    for file, index in zip(callback.files, (0, 1, 3, 4, 6, 7), strict=True):
        picture = read(file)
        assert picture.shape == (64, 192, 3)
        image, truth, _ = thirds(picture)
        np.testing.assert_array_equal(image, (batch.image[index].permute(1, 2, 0) * 255).round())
        assert (truth == GREEN).all(axis=-1).any() == batch.label[index]


@pytest.mark.parametrize(("num_images", "expected"), [(0, 0), (1, 3), (100, 9)])
def test_number_of_pictures_is_bounded(tiny_root: Path, tmp_path: Path, num_images: int, expected: int) -> None:
    callback = visualize(tiny_root, tmp_path / "pictures", num_images)
    assert len(callback.files) == expected
    assert len(list(tmp_path.glob("pictures/*"))) == expected


def test_a_second_test_lists_its_own_pictures(tiny_root: Path, tmp_path: Path) -> None:
    callback = VisualizationCallback(tmp_path, num_images=1)
    drive(callback, torch.rand(3, 8, 8))
    first = callback.files
    drive(callback, torch.rand(3, 8, 8))
    assert callback.files == first == [tmp_path / "good_000.png"]


def test_all_pictures_share_one_colour_scale(tmp_path: Path) -> None:
    cold, warm, hot = drive(
        VisualizationCallback(tmp_path, 3), torch.tensor([7.0, 8.0, 9.0])[:, None, None].expand(3, 8, 8)
    )
    heat = [heat_of(thirds(picture)[2]) for picture in (cold, warm, hot)]
    assert [int(h.max() - h.min()) for h in heat] == [0, 0, 0]
    assert heat[0][0, 0] < 5
    assert 120 < heat[1][0, 0] < 135
    assert heat[2][0, 0] > 250


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_equal_scores_are_drawn_without_complaint(tmp_path: Path, value: float) -> None:
    (picture,) = drive(VisualizationCallback(tmp_path), torch.full((1, 16, 16), value))
    assert picture.shape == (16, 48, 3)


def test_only_the_first_process_draws(tmp_path: Path) -> None:
    assert drive(VisualizationCallback(tmp_path / "pictures"), torch.rand(2, 8, 8), is_global_zero=False) == []
    assert not (tmp_path / "pictures").exists()


def test_panel_puts_image_truth_and_heat_side_by_side() -> None:
    image = photo()
    picture = panel(image, NO_MASK, torch.zeros(30, 40), UNIT)
    assert picture.shape == (30, 120, 3)
    left, truth, overlay = thirds(picture)
    np.testing.assert_array_equal(left, (image.permute(1, 2, 0) * 255).round())
    np.testing.assert_array_equal(truth, left)
    assert (overlay != left).any()


@pytest.mark.parametrize("holes", [[(8, 20, 10, 30)], [(3, 9, 4, 12), (18, 27, 20, 36)], [(0, 30, 0, 15)]])
def test_panel_outlines_the_truth_in_green(holes: list[tuple[int, int, int, int]]) -> None:
    mask = NO_MASK.clone()
    for top, bottom, left, right in holes:
        mask[top:bottom, left:right] = True
    image, truth, _ = thirds(panel(photo(), mask, torch.zeros(30, 40), UNIT))
    green = (truth == GREEN).all(axis=-1)
    np.testing.assert_array_equal(truth[~green], image[~green])
    inside = mask.numpy().astype(np.uint8)
    window = np.ones((3, 3), np.uint8)
    border = (inside - cv2.erode(inside, window, borderValue=1)).astype(bool)
    near = cv2.dilate(border.astype(np.uint8), window, iterations=2).astype(bool)
    assert green[border].all()
    assert not green[~near].any()


def test_panel_goes_from_cold_to_hot() -> None:
    ramp = torch.linspace(0, 1, 40).expand(30, 40)
    heat = heat_of(thirds(panel(torch.zeros(3, 30, 40), NO_MASK, ramp, UNIT))[2])
    assert (np.diff(heat, axis=1) > 0).all()
    assert (np.diff(heat, axis=0) == 0).all()
    assert (heat[0, 0] < 5, heat[0, -1] > 250) == (True, True)
    coldest, hottest = (
        thirds(panel(torch.zeros(3, 30, 40), NO_MASK, torch.full((30, 40), v), UNIT))[2][0, 0] for v in (0.0, 1.0)
    )
    assert coldest[2] > coldest[0]
    assert hottest[0] > hottest[2]


def test_panel_draws_what_is_off_the_scale_like_its_ends() -> None:
    image = photo()
    for outside, end in ((-5.0, 0.0), (7.0, 1.0)):
        first, second = (panel(image, NO_MASK, torch.full((30, 40), value), UNIT) for value in (outside, end))
        np.testing.assert_array_equal(first, second)


def test_panel_lets_the_image_shine_through_the_heat() -> None:
    anomaly_map = torch.rand(30, 40, generator=torch.Generator().manual_seed(1))
    black, white = (
        thirds(panel(torch.full((3, 30, 40), v), NO_MASK, anomaly_map, UNIT))[2].astype(int) for v in (0.0, 1.0)
    )
    assert np.abs(white - black - 127.5).max() <= 1


def gallery_of(folder: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    index = json.loads((folder / "index.json").read_text())
    return index, [read(folder / name) for name in ("images.jpg", "masks.png", "maps.png")]


def test_the_gallery_holds_small_images_masks_and_maps_of_8_bits(tiny_root: Path, tmp_path: Path) -> None:
    visualize(tiny_root, tmp_path / "pictures")
    index, (images, masks, maps) = gallery_of(tmp_path / "gallery")
    assert (index["height_px"], index["width_px"]) == (128, 128)
    assert len(index["paths"]) == 9
    assert (images.shape, masks.shape, maps.shape) == ((9 * 128, 128, 3), (9 * 128, 128), (9 * 128, 128))
    assert {array.dtype for array in (images, masks, maps)} == {np.dtype(np.uint8)}
    assert set(np.unique(masks)) == {0, 255}
    kinds = [name.split("/")[1] for name in index["paths"]]
    assert kinds == ["good", "large", "small"] * 3
    for place, kind in enumerate(kinds):
        tile = slice(128 * place, 128 * place + 128)
        assert (masks[tile] > 0).any() == (kind != "good")
        if kind == "large":  # Brightness scores the bright square
            assert maps[tile][masks[tile] > 0].mean() > maps[tile][masks[tile] == 0].mean() + 50
    assert sum(file.stat().st_size for file in (tmp_path / "gallery").iterdir()) < 300_000


def test_the_gallery_is_bounded_and_the_same_images_whatever_the_scores(tmp_path: Path) -> None:
    names = []
    for folder, seed in (("a", 0), ("b", 1)):
        scores = torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(seed))
        drive(VisualizationCallback(tmp_path / folder / "pictures", num_maps=5, map_size=16), scores)
        index, (_, _, maps) = gallery_of(tmp_path / folder / "gallery")
        assert maps.shape == (5 * 16, 16)
        names.append(index["paths"])
    assert names[0] == names[1]
    assert names[0] != sorted(names[0])  # not simply the first


def test_the_gallery_gives_back_the_scores_within_its_scale(tmp_path: Path) -> None:
    scores = torch.linspace(-3, 7, 20)[:, None, None].expand(20, 8, 8)
    drive(VisualizationCallback(tmp_path / "pictures", num_maps=20, map_size=8), scores)
    index, (_, _, maps) = gallery_of(tmp_path / "gallery")
    back = index["low"] + maps.astype(float) / 255 * (index["high"] - index["low"])
    expected = [float(scores[int(Path(name).stem)].mean()) for name in index["paths"]]
    np.testing.assert_allclose(
        back.reshape(20, 64).mean(axis=1), np.clip(expected, index["low"], index["high"]), atol=0.03
    )


def test_there_is_no_gallery_if_none_is_wanted(tmp_path: Path) -> None:
    drive(VisualizationCallback(tmp_path / "pictures", num_maps=0), torch.rand(3, 8, 8))
    assert not (tmp_path / "gallery").exists()
