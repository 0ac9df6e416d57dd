from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from anomaly_zoo.deploy.calibration import doubts
from anomaly_zoo.deploy.independence import same_part

RNG = np.random.default_rng(0)


def part(size: int = 128) -> np.ndarray:
    """A bright disc on dark ground, always in one place, and a texture of its own."""
    coarse: Any = cv2.resize(RNG.normal(size=(40, 40)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:size, :size] / size - 0.5
    grey = 60 + 120 * (x * x + y * y < 0.15) + 12 * coarse
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def moved(image: np.ndarray, angle: float, shift: float, scale: float = 1.0) -> np.ndarray:
    size = len(image)
    move: Any = cv2.getRotationMatrix2D((size / 2, size / 2), angle, scale)
    move[:, 2] += shift * size
    return np.asarray(cv2.warpAffine(image, move, (size, size), borderMode=cv2.BORDER_REFLECT_101))


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "not at all": lambda image: image.copy(),
    "noise": lambda image: np.clip(image + RNG.normal(0, 2, image.shape), 0, 255).astype(np.uint8),
    "shift": lambda image: moved(image, 0, 0.03),
    "by hand": lambda image: (0.9 * moved(image, 4, -0.02, 1.02)).astype(np.uint8),
    "jpeg": lambda image: saved(image, 60),
    "brighter": lambda image: np.clip(1.2 * image, 0, 255).astype(np.uint8),
    "upside down": lambda image: np.ascontiguousarray(image[::-1, ::-1]),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "blurred": lambda image: cv2.GaussianBlur(image, (0, 0), 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_part_is_found_again(change: str) -> None:
    parts = [part() for _ in range(3)]
    assert same_part(parts) == [0, 1, 2]
    assert same_part([*parts, CHANGES[change](parts[1])]) == [0, 1, 2, 1]


def test_bare_images_show_nothing_that_tells_them_apart() -> None:
    assert same_part([np.full((64, 64, 3), grey, np.uint8) for grey in (10, 10, 12)]) == [0, 0, 0]
    assert same_part([]) == []


@pytest.mark.parametrize(
    ("first", "scores", "named"),
    [
        ([0, 1, 2, 3], [1.0, 1.1, 0.8, 1.3], []),
        ([0, 1, 2], [1.0, 1.1, 0.8], ["3 independent images, so that the threshold is a guess"]),
        (
            [0, 1, 2, 1, 4],
            [1.0, 1.1, 0.8, 1.0, 1.0],
            ["1 of 5 support images look like others (d like b), as of one part"],
        ),
        ([0] * 8, [1.0] * 8, ["7 of 8 support images look like others (b like a, c like a ...)", "no decision"]),
        ([0, 1, 2, 3], [1.0, 1.001, 1.002, 0.999], ["held-out scores nearly agree (within 0.1%)"]),
    ],
)
def test_what_is_said_of_a_support(first: list[int], scores: list[float], named: list[str]) -> None:
    said = doubts("abcdefgh"[: len(first)], first, scores)
    assert len(said) == len(named)
    assert all(part in warning for part, warning in zip(named, said, strict=True))
