import numpy as np
import pytest
import torch

from anomaly_zoo.data.transforms import resize
from anomaly_zoo.deploy.resizing import Resize

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("height", "width"),
    [(64, 64), (96, 96), (75, 75), (128, 128), (192, 192), (256, 256), (128, 64), (175, 225), (65, 64), (700, 333)],
)
def test_shrinking_is_that_of_the_protocol(height: int, width: int) -> None:
    compare(height, width, share=1e-4)


@pytest.mark.parametrize(("height", "width"), [(100, 45), (45, 100), (63, 64), (64, 63), (50, 45), (32, 32), (1, 1)])
def test_growing_is_that_of_the_protocol(height: int, width: int) -> None:
    compare(height, width, share=1e-4)


def compare(height: int, width: int, share: float) -> None:
    """At most this share of the pixels differs, by 1 of 255."""
    images = RNG.integers(0, 256, (2, height, width, 3), np.uint8)
    found = Resize((64, 64))(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy()
    difference = np.abs(found - np.stack([resize(image, (64, 64)) for image in images]))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share
