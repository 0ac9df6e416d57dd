"""What the datasets yield, and how it becomes a `Batch`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from anomaly_zoo.types import Batch


class Sample(NamedTuple):
    """One image file in one or more views. Pixels stay uint8 up to here: a quarter of the bytes to copy around."""

    views: UInt8[np.ndarray, "v h w 3"]  # resized RGB
    mask: Bool[np.ndarray, "v _ _"]  # True where a pixel is anomalous; it may have another size than the image
    label: bool  # True for an anomalous image
    path: str
    region: Bool[np.ndarray, "v h w"] | None = None  # True where scores count; None where they count everywhere


def normal_sample(views: Sequence[UInt8[np.ndarray, "h w 3"]], path: str) -> Sample:
    """Wraps views of a normal image: nothing in them is anomalous."""
    stacked = np.stack(views)
    return Sample(stacked, np.zeros(stacked.shape[:3], dtype=bool), False, path)


def collate(samples: Sequence[Sample]) -> Batch:
    """Joins samples into one batch, float32 in [0, 1]: all views of the first image, then those of the second ..."""
    pixels = np.concatenate([sample.views for sample in samples]).transpose(0, 3, 1, 2)
    of_views = [sample for sample in samples for _ in sample.views]
    regions = [sample.region for sample in samples if sample.region is not None]
    return Batch(
        # NumPy, because torch would start its threads for this bit of work: up to 40 ms on a busy machine, not 2
        image=torch.from_numpy(np.divide(pixels, np.float32(255), order="C")),
        mask=torch.from_numpy(np.concatenate([sample.mask for sample in samples])),
        label=torch.tensor([sample.label for sample in of_views]),
        path=[sample.path for sample in of_views],
        region=torch.from_numpy(np.concatenate(regions)) if regions else None,
    )
