"""Which support images show the same part: copies, a burst, one part photographed again.

A held-out image must show another part than those that a method is fitted to. Otherwise the threshold learns nothing
but the noise of the camera, and every other part is above it. Measured on real images in docs/deploy.md.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Grey = Float32[np.ndarray, "_ _"]

_SIDE, _MARGIN = 96, 8
_WITHIN = 32  # positions: of a burst, images with neighbouring names show one part
_MAX_PAIRS = 600
_LEAST, _ENOUGH = 0.88, 0.985
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)


def same_part(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[int]:
    """For each image the position of the first one that shows the same part: its own, if no earlier one does.

    Two images do if their details agree, after one was laid over the other, as well as they do after a change that
    makes no other part of it: 3 degrees, 3 % of the side, darker by a tenth, noise, JPEG.
    """
    first = list(range(len(images)))
    small = [_grey(image) for image in images]
    changed = [_grey(_changed(image)) for image in images]
    likeness = [_likeness(one, other, *_place(one, other)[1:]) for one, other in zip(small, changed, strict=True)]
    enough = np.clip(likeness, _LEAST, _ENOUGH)
    places = {(i, j): _place(small[i], small[j]) for j in first for i in range(max(0, j - _WITHIN), j)}
    for i, j in sorted(places, key=lambda pair: -places[pair][0])[:_MAX_PAIRS]:
        if first[i] != first[j] and _likeness(small[i], small[j], *places[i, j][1:]) >= max(enough[i], enough[j]):
            low, high = sorted((first[i], first[j]))
            first = [low if value == high else value for value in first]
    return first


def _grey(image: UInt8[np.ndarray, "_ _ 3"]) -> Grey:
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)


def _changed(image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    height, width = image.shape[:2]
    move = cv2.getRotationMatrix2D((width / 2, height / 2), 3, 1)
    move[:, 2] += 0.03 * width
    moved = cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    noisy = (0.9 * moved + np.random.default_rng(0).normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR))


def _oriented(grey: Grey, orientation: int) -> Grey:
    return np.ascontiguousarray(np.rot90(np.fliplr(grey) if orientation >= 4 else grey, orientation % 4))


def _place(one: Grey, other: Grey) -> tuple[float, int, int, int]:
    """The best correlation, and the orientation and the shift (down, right) of the other image that it is found at."""
    one, other = ((grey - grey.mean()) / (grey.std() + 1e-3) for grey in (one, other))
    turned = np.stack([_oriented(other, orientation) for orientation in range(8)])
    product = np.fft.rfft2(one) * np.conj(np.fft.rfft2(turned))
    found = np.fft.irfft2(product, s=one.shape) / one.size
    orientation, down, right = np.unravel_index(found.argmax(), found.shape)
    shift = [int((steps + _SIDE // 2) % _SIDE) - _SIDE // 2 for steps in (down, right)]
    return float(found.max()), int(orientation), *shift  # type: ignore[return-value]


def _likeness(one: Grey, other: Grey, orientation: int, down: int, right: int) -> float:
    """Correlation of the details of two images, after the other was laid over the one by an affine map."""
    other = _oriented(other, orientation)
    move: Any = np.array([[1, 0, -right], [0, 1, -down]], np.float32)
    with suppress(cv2.error):  # where there is no detail to go by, the shift stays
        _, move = cv2.findTransformECC(one, other, move, cv2.MOTION_AFFINE, _STOP, np.ones_like(one, np.uint8), 5)
    inverse = cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(other, move, one.shape, flags=inverse | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    common = cv2.warpAffine(np.ones_like(other), move, one.shape, flags=inverse | cv2.INTER_NEAREST) > 0
    common = common[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    details = [_detail(grey)[common] for grey in (one, laid)]
    if common.mean() < 0.5:
        return 0.0
    if max(detail.std() for detail in details) < 1e-2:  # both are bare
        return 1.0
    return float(np.corrcoef(np.stack(details))[0, 1]) if min(detail.std() for detail in details) > 1e-6 else 0.0


def _detail(grey: Grey) -> Grey:
    """What is finer than 2 pixels, faint detail raised: texture tells parts apart, and their outlines do not."""
    fine = cv2.GaussianBlur(grey, (0, 0), 0.7) - cv2.GaussianBlur(grey, (0, 0), 2)
    fine = fine[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return np.asarray(fine / (np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4)) + 0.3 * fine.std() + 1e-3))
