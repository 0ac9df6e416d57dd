"""Test images as they are after decoding and resizing, kept in memory up to a budget.

The memory is an anonymous shared mapping: worker processes forked after it was made read and fill the same one, and
pages that nobody filled cost nothing.
"""

import mmap
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8


class ImageCache:
    """The first images of a test split, as many as the budget holds; each is kept when it is first put.

    Args:
        num_images: images of the split.
        image_size: their side in pixels.
        budget_mib: what all of it may take, in MiB; 0 keeps nothing.

    Attributes:
        capacity: images that fit.
    """

    def __init__(self, num_images: int, image_size: int, budget_mib: int) -> None:
        self.image_size = image_size
        self._area = image_size**2
        record = 3 * self._area + 2 * -(-self._area // 8) + 1  # pixels, a bit each for mask and region, kept or not
        self.capacity = min(num_images, budget_mib * 2**20 // record)
        self._records: UInt8[np.ndarray, "n r"] | None = None
        if self.capacity:
            memory = mmap.mmap(-1, self.capacity * record)
            self._records = np.frombuffer(memory, np.uint8).reshape(self.capacity, record)

    @property
    def num_kept(self) -> int:
        """Images that are kept already, by any process."""
        return 0 if self._records is None else int(np.count_nonzero(self._records[:, -1]))

    def get(
        self, index: int
    ) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"], Bool[np.ndarray, "s s"]] | None:
        """Looks an image up.

        Args:
            index: its number in the split.

        Returns:
            Pixels, mask and region, which must not be written to; None if the image is not kept.
        """
        if self._records is None or index >= self.capacity or not self._records[index, -1]:
            return None
        record, area, shape = self._records[index], self._area, (self.image_size, self.image_size)
        bits = record[3 * area : -1].reshape(2, -1)
        mask, region = (np.unpackbits(plane, count=area).view(np.bool_).reshape(shape) for plane in bits)
        return record[: 3 * area].reshape(*shape, 3), mask, region

    def put(
        self,
        index: int,
        image: UInt8[np.ndarray, "s s 3"],
        mask: Bool[np.ndarray, "s s"],
        region: Bool[np.ndarray, "s s"],
    ) -> None:
        """Keeps an image, if there is room for it.

        Args:
            index: its number in the split.
            image: resized pixels.
            mask: True where anomalous.
            region: True where scores count.
        """
        if self._records is None or index >= self.capacity:
            return
        parts = (image.reshape(-1), np.packbits(mask), np.packbits(region))
        self._records[index, :-1] = np.concatenate(parts)
        self._records[index, -1] = 1  # last, since another process may be looking

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is spawned, not forked, cannot share the memory: it gets a cache that keeps nothing."""
        return self.__dict__ | {"capacity": 0, "_records": None}
