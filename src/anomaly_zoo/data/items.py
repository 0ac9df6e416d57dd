"""What the datasets yield, and how it becomes a `Batch`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from anomaly_zoo.types import Batch


class Item(NamedTuple):
    """One image file in one or more views. Pixels stay uint8 up to here: a quarter of the bytes to copy around.

    Attributes:
        views: resized RGB views of the image, in [0, 255].
        mask: for every view, True where a pixel is anomalous.
        label: True for an anomalous image.
        path: the image's file.
        region: for every view, True where scores count; None where they count everywhere.
    """

    views: UInt8[np.ndarray, "v h w 3"]
    mask: Bool[np.ndarray, "v h w"]
    label: bool
    path: str
    region: Bool[np.ndarray, "v h w"] | None = None


def normal_item(views: Sequence[UInt8[np.ndarray, "h w 3"]], path: str) -> Item:
    """Wraps views of a normal image: nothing in them is anomalous.

    Args:
        views: at least one view.
        path: the image's file.

    Returns:
        The item.
    """
    stacked = np.stack(views)
    return Item(stacked, np.zeros(stacked.shape[:3], dtype=bool), False, path)


def collate(items: Sequence[Item]) -> Batch:
    """Joins items into one batch, image-major: all views of the first item, then those of the second ...

    Args:
        items: at least one item, all of one image size, and all with a region or all without.

    Returns:
        The batch; `image` is float32 in [0, 1] and contiguous.
    """
    pixels = np.concatenate([item.views for item in items]).transpose(0, 3, 1, 2)
    owners = [item for item in items for _ in item.views]
    regions = [item.region for item in items if item.region is not None]
    return Batch(
        # NumPy, because torch would start its threads for this bit of work: up to 40 ms on a busy machine, not 2
        image=torch.from_numpy(np.divide(pixels, np.float32(255), order="C")),
        mask=torch.from_numpy(np.concatenate([item.mask for item in items])),
        label=torch.tensor([item.label for item in owners]),
        path=[item.path for item in owners],
        region=torch.from_numpy(np.concatenate(regions)) if regions else None,
    )
