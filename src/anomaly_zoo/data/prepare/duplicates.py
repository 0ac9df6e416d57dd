"""Images that lie in training and in the test split, whole or slightly changed: they make every score look better."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

SIDE = 32
"""Side in pixels of the thumbnails that are compared."""

LARGEST_DIFFERENCE = 3.0
"""Root mean square of the grey values, in [0, 255], up to which two thumbnails may show one image. Images of MVTec AD
bottle and screw, of magnetic tiles and hazelnuts saved again at 60 % of their size and JPEG quality 70 differed by at
most 2.1 from themselves, and the closest pair of different images by 4.8."""

_OF_USUAL = 0.5


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " d"]:
    """What is left of an image when it is changed slightly: `SIDE` x `SIDE` grey values, each the mean of many."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)).reshape(-1)


def near_duplicates(
    train: Sequence[Float32[np.ndarray, " d"]], test: Sequence[Float32[np.ndarray, " d"]]
) -> list[tuple[int, int]]:
    """Positions of training and test images that look like one image, the closest pair first.

    They differ by no more than `LARGEST_DIFFERENCE`, and by no more than half of what an image usually differs from the
    training image that is nearest to it (the smaller of the medians over test images, among which defects stand out,
    and over training images), so that a product that always looks the same raises no alarm; and likewise when their
    mean grey value is not counted, since two images of such a product may happen to be equally bright.
    """
    if not train or not test:
        return []
    a, b = np.stack(train).astype(np.float64), np.stack(test).astype(np.float64)
    centred = [values - values.mean(axis=1, keepdims=True) for values in (a, b)]
    difference = _differences(a, b)
    pairs = np.argwhere((difference <= _largest(a, b)) & (_differences(*centred) <= _largest(*centred)))
    order = np.argsort(difference[pairs[:, 0], pairs[:, 1]], kind="stable")
    return [(int(i), int(j)) for i, j in pairs[order]]


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square differences between all rows of `a` and all of `b`."""
    squared = (a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * (a @ b.T) / a.shape[1]
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _largest(train: np.ndarray, test: np.ndarray) -> float:
    usual = float(np.median(_differences(train, test).min(axis=0)))
    if len(train) > 1:
        among = _differences(train, train)
        np.fill_diagonal(among, np.inf)
        usual = min(usual, float(np.median(among.min(axis=0))))
    return min(LARGEST_DIFFERENCE, max(_OF_USUAL * usual, 1e-3))
