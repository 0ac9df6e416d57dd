import os
from pathlib import Path

import cv2
import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the network should fail, not wait

_SIZE_PX = 48
_DEFECT_SIDES_PX = {"large": 20, "small": 10}


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Writes RGB or grey pixels in the format that the suffix names, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
    path.write_bytes(encoded.tobytes())
    return path


def _texture(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    coarse = cv2.resize(rng.normal(size=(8, 8)).astype(np.float32), (_SIZE_PX, _SIZE_PX), interpolation=cv2.INTER_CUBIC)
    relief = 12 * np.asarray(coarse) + rng.normal(scale=4, size=(_SIZE_PX, _SIZE_PX))
    return np.clip(colour + relief[..., None], 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in the MVTec layout: categories alpha and beta, textures of 48 px with bright squares as defects.

    Each has 6 normal training images, 3 normal test images and 3 images with masks of the defects large and small.
    """
    root = tmp_path_factory.mktemp("data") / "tiny"
    for number, (category, colour) in enumerate({"alpha": (110, 90, 70), "beta": (60, 90, 120)}.items()):
        rng = np.random.default_rng(number)
        for folder, count in (("train", 6), ("test", 3)):
            for index in range(count):
                write_image(root / category / folder / "good" / f"{index:03}.png", _texture(rng, np.array(colour)))
        for defect, side in _DEFECT_SIDES_PX.items():
            for index in range(3):
                top, left = rng.integers(2, _SIZE_PX - side - 2, size=2)
                mask = np.zeros((_SIZE_PX, _SIZE_PX), np.uint8)
                mask[top : top + side, left : left + side] = 255
                image = np.where(mask[..., None] > 0, 230, _texture(rng, np.array(colour))).astype(np.uint8)
                write_image(root / category / "test" / defect / f"{index:03}.png", image)
                write_image(root / category / "ground_truth" / defect / f"{index:03}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images that lie beside the repository; never part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real images in ../shared/data, beside the repository")
    return folder
