"""Test images as they are after decoding and resizing, kept in memory up to a budget.

The memory is an anonymous shared mapping: worker processes forked after it was made read and fill the same one, and
pages that nobody filled cost nothing.
"""

import mmap
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8


class ImageCache:
    """The first images of a test split, as many as the budget in MiB holds; each is kept when it is first put."""

    def __init__(self, num_images: int, image_size: int, budget_mib: int) -> None:
        self.image_size = image_size
        self._area = image_size**2
        num_bytes = 3 * self._area + 2 * -(-self._area // 8) + 1  # pixels, a bit each for mask and region, kept or not
        self.capacity = min(num_images, budget_mib * 2**20 // num_bytes)
        self._rows: UInt8[np.ndarray, "n r"] | None = None
        if self.capacity:
            memory = mmap.mmap(-1, self.capacity * num_bytes)
            self._rows = np.frombuffer(memory, np.uint8).reshape(self.capacity, num_bytes)

    @property
    def num_kept(self) -> int:
        """Images that are kept already, by any process."""
        return 0 if self._rows is None else int(np.count_nonzero(self._rows[:, -1]))

    def get(
        self, index: int
    ) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"], Bool[np.ndarray, "s s"]] | None:
        """Pixels, mask and region of an image, which must not be written to; None if the image is not kept."""
        if self._rows is None or index >= self.capacity or not self._rows[index, -1]:
            return None
        row, area, shape = self._rows[index], self._area, (self.image_size, self.image_size)
        bits = row[3 * area : -1].reshape(2, -1)
        mask, region = (np.unpackbits(plane, count=area).view(np.bool_).reshape(shape) for plane in bits)
        return row[: 3 * area].reshape(*shape, 3), mask, region

    def put(
        self,
        index: int,
        image: UInt8[np.ndarray, "s s 3"],
        mask: Bool[np.ndarray, "s s"],
        region: Bool[np.ndarray, "s s"],
    ) -> None:
        """Keeps an image, if there is room for it."""
        if self._rows is None or index >= self.capacity:
            return
        self._rows[index, :-1] = np.concatenate((image.reshape(-1), np.packbits(mask), np.packbits(region)))
        self._rows[index, -1] = 1  # last, since another process may be looking

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is spawned, not forked, cannot share the memory: it gets a cache that keeps nothing."""
        return self.__dict__ | {"capacity": 0, "_rows": None}
