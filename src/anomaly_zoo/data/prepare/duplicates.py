"""Images that lie in a dataset twice, whole or slightly changed: they make scores and thresholds look better."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

_SIDE = 32  # in pixels, of the thumbnails that are compared
# Root mean square of grey values, up to which thumbnails may show one image. Images of MVTec AD, magnetic tiles and
# hazelnuts, saved again at 60 % of their size and JPEG quality 70, differed by up to 2.1, different ones by 3.2 or more
_LARGEST_DIFFERENCE = 3.0
_OF_USUAL = 0.5
_BURST, _OF_CONTRAST = 1.5, 0.15  # one part seen several times differs by noise alone: 0.3 to 1.2 with these images
_ROWS, _MOST = 256, 2048  # compared at once, so that memory stays bounded


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " d"]:
    """What is left of an image when it is changed slightly: grey values, each the mean of many."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)).reshape(-1)


def near_copies(thumbnails: Sequence[Float32[np.ndarray, " d"]], is_normal: Sequence[bool]) -> list[tuple[int, int]]:
    """Positions of images that look like one image, the closest pair first.

    They differ by little, and by no more than half of what a normal image usually differs from the nearest one, so that
    a product that always looks the same raises no alarm; or by noise alone. So also without their mean grey value,
    since two images of such a product may be equally bright.
    """
    if len(thumbnails) < 2:
        return []
    values = np.stack(thumbnails)
    centred = values - values.mean(axis=1, keepdims=True)
    contrast = centred.std(axis=1)
    limits = [_largest(v[np.array(is_normal)]) for v in (values, centred)]
    found = []
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        plain, without_mean = (_differences(v[rows], v) for v in (values, centred))
        is_copy = (plain <= limits[0]) & (without_mean <= limits[1])
        is_copy |= (plain <= _BURST) & (without_mean <= _OF_CONTRAST * np.minimum(contrast[rows, None], contrast))
        found += [(float(plain[i, j]), start + int(i), int(j)) for i, j in np.argwhere(is_copy) if start + i < j]
    return [(i, j) for _, i, j in sorted(found)]


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square differences between all rows of `a` and all of `b`."""
    squared = (a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * (a @ b.T) / a.shape[1]
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _largest(normal: np.ndarray) -> float:
    normal = normal[:_MOST]
    differences = _differences(normal, normal)
    np.fill_diagonal(differences, np.inf)
    usual = float(np.median(differences.min(axis=1))) if len(normal) > 1 else 0.0
    return min(_LARGEST_DIFFERENCE, max(_OF_USUAL * usual, 1e-3))
