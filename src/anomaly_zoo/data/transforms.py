"""Resizing and augmentation of uint8 RGB images; the only file that imports albumentations.

Every function depends on its arguments alone, so what a run sees does not depend on the number of workers.
"""

import functools
import os
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

Shape = tuple[int, int]  # height and width in pixels
NUM_ORIENTATIONS = 16
STRIDE = 32  # of the coarsest feature maps; sides of an oblong shape are multiples of it
MAX_ASPECT = 4.0
_PHOTOMETRIC = {"brightness": (0.9, 1.1), "contrast": (0.9, 1.1), "saturation": (0.9, 1.1), "hue": (-0.02, 0.02)}


def category_shape(shapes: Sequence[Shape], image_size: int) -> Shape:
    """The shape that all images of a category are resized to: their median aspect ratio, `image_size`^2 pixels.

    Sides are multiples of `STRIDE`, and one is at most `MAX_ASPECT` times the other. What is nearly square is square.

    >>> category_shape([(632, 250)], 256), category_shape([(900, 900)], 300)
    ((416, 160), (300, 300))
    """
    aspect = float(np.exp(np.median([np.log(width / height) for height, width in shapes])))
    aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
    height, width = (STRIDE * max(1, round(image_size * side / STRIDE)) for side in (aspect**-0.5, aspect**0.5))
    return (image_size, image_size) if height == width else (height, width)


def orientations_of(shape: Shape) -> list[int]:
    """The orientations that keep a shape, see `oriented`: first its symmetries, then as many turned by 45 degrees."""
    return list(range(0, NUM_ORIENTATIONS, 1 if shape[0] == shape[1] else 2))


def resize(image: UInt8[np.ndarray, "h w 3"], shape: Shape) -> UInt8[np.ndarray, "_ _ 3"]:
    """Resizes without keeping the aspect ratio: area average where a side shrinks, linear where it grows."""
    least = min(image.shape[0], shape[0]), min(image.shape[1], shape[1])
    # OpenCV's area average falls back to something else as soon as one side grows, so the sides that shrink go first
    for size, method in ((least, cv2.INTER_AREA), (shape, cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = cv2.resize(image, size[::-1], interpolation=method)
    return image


def resize_mask(mask: Bool[np.ndarray, "h w"], shape: Shape) -> Bool[np.ndarray, "_ _"]:
    """Resizes by the nearest pixel (measured from pixel centre to pixel centre, as `resize` does)."""
    return np.asarray(cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0)


def oriented(image: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """Turns an image by `orientation` times 90 degrees anticlockwise; 4 to 7 do the same after mirroring left to right.

    8 to 15 are 0 to 7, interpolated, turned by another 45 degrees; what comes in at the corners is the image's mirror.
    """
    mirrored = np.fliplr(image) if orientation % 8 >= 4 else image
    turned = np.ascontiguousarray(np.rot90(mirrored, orientation % 4))
    if orientation < NUM_ORIENTATIONS // 2:
        return turned
    height, width = turned.shape[:2]
    rotation = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle=45, scale=1)
    return cv2.warpAffine(turned, rotation, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def support_view(
    image: UInt8[np.ndarray, "h w 3"], view: int, seed: int, orientations: Sequence[int] = range(NUM_ORIENTATIONS // 2)
) -> UInt8[np.ndarray, "h w 3"]:
    """View 0 is the image as it is; view v has orientation v mod n of the n given, and a mild change of colour."""
    if view == 0:
        return image
    return _apply(_support_pipeline(), oriented(image, orientations[view % len(orientations)]), seed)


def training_view(image: UInt8[np.ndarray, "h w 3"], seed: int) -> UInt8[np.ndarray, "h w 3"]:
    """Makes a random view for training: symmetry, slight zoom, shift and turn, colour, now and then blur and noise."""
    return _apply(_training_pipeline(image.shape[0] == image.shape[1]), image, seed)


def _apply(pipeline: Any, image: np.ndarray, seed: int) -> np.ndarray:
    # set_random_seed would give every transform the same stream: blur would come exactly when noise comes, and so on
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))  # noqa: S311 - not for cryptography
    return np.ascontiguousarray(pipeline(image=image)["image"])


@functools.cache
def _support_pipeline() -> Any:
    A = _albumentations()  # noqa: N806
    return A.Compose([A.ColorJitter(**_PHOTOMETRIC, p=1.0)])


@functools.cache
def _training_pipeline(is_square: bool) -> Any:
    A = _albumentations()  # noqa: N806
    return A.Compose(
        [
            *([A.D4(p=1.0)] if is_square else [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]),  # what keeps the shape
            A.Affine(
                scale=(1.0, 1.25),  # shows a crop of 0.8 to 1 of the side
                translate_percent=(-0.05, 0.05),
                rotate=(-5.0, 5.0),
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            ),
            A.ColorJitter(**_PHOTOMETRIC, p=0.8),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 1.0), p=0.2),
            A.GaussNoise(std_range=(0.005, 0.02), per_channel=False, p=0.2),  # grey images stay grey
        ]
    )


def _albumentations() -> Any:
    # Late, because it takes 0.7 s that testing can do without; without the variable it asks the network for news
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations  # type: ignore[import-untyped]

    return albumentations
