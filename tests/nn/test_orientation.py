from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.transforms import oriented
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.orientation import NUM_ASKED, find_orientations

FILES = [f"{number}.png" for number in range(NUM_ASKED)]
EVERYTHING = list(range(16))


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return Backbone().eval()


def product(text: str, number: int) -> np.ndarray:
    """Letters on a noisy ground, never twice the same."""
    image = np.random.default_rng(number).normal(90, 4, (128, 128, 3))
    drawn = cv2.putText(np.zeros((128, 128, 3), np.uint8), text, (38, 86), cv2.FONT_HERSHEY_SIMPLEX, 2.5, (130,) * 3, 9)
    return np.clip(image + drawn, 0, 255).astype(np.uint8)


def in_all_orientations(images: list[np.ndarray]) -> Tensor:
    views = np.stack([[oriented(image, orientation) for orientation in EVERYTHING] for image in images])
    return torch.from_numpy(views).float().movedim(-1, 2) / 255


def test_a_product_that_always_lies_the_same_way_is_left_upright(backbone: nn.Module) -> None:
    aligned = in_all_orientations([product("F", number) for number in range(NUM_ASKED)])
    assert find_orientations(backbone, aligned, FILES) == [0]


def test_a_product_that_lies_anyhow_is_turned(backbone: nn.Module) -> None:
    anyhow = [
        oriented(product("F", number), orientation) for number, orientation in enumerate((0, 7, 10, 13, 3, 9, 6, 12))
    ]
    assert find_orientations(backbone, in_all_orientations(anyhow), FILES) == EVERYTHING


def test_of_one_file_nothing_is_known(backbone: nn.Module) -> None:
    tiles = in_all_orientations([product("F", 0), product("F", 1)])
    assert find_orientations(backbone, tiles, ["a.png", "a.png"]) == list(range(8))
    assert find_orientations(backbone, tiles[:, :6], ["a.png", "a.png"]) == [0, 1, 2]


def test_copies_of_one_image_are_no_obstacle(backbone: nn.Module) -> None:
    copies = in_all_orientations([product("F", 0)] * NUM_ASKED)
    assert find_orientations(backbone, copies, FILES) == [0]


@pytest.mark.parametrize(
    ("dataset", "category", "expected"),
    [
        ("other", "magnetic_tile", [0, 2, 4, 6]),  # a strip: half a turn and mirrors leave it as it is
        ("mvtec_ad", "screw", EVERYTHING),
    ],
)
def test_real_products(
    dataset: str, category: str, expected: list[int], backbone: nn.Module, shared_data: Path
) -> None:
    data = MVTecDataModule(shared_data / dataset, category, shape="square")
    asked = data.support(16, EVERYTHING, max_images=NUM_ASKED)
    image = torch.unflatten(asked.image, 0, (-1, 16))
    assert len(image) == NUM_ASKED
    assert find_orientations(backbone, image, asked.path[::16]) == expected
