"""What training sees: which support image comes when, and its augmented views."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from torch.utils.data import Dataset

from anomaly_zoo.data.samples import Sample, normal_sample
from anomaly_zoo.data.support import derive_seed, seeded_permutation
from anomaly_zoo.data.transforms import training_view


def training_order(shots: int, batch_size: int, batches: int, seed: int) -> list[int]:
    """Decides which support image every sample shows: `batch_size * batches` numbers below `shots`.

    Each block of `shots` samples holds every image once, in a new order that starts with what the batch does not have
    yet: the images of a batch are distinct whenever `batch_size <= shots`.

    >>> training_order(shots=4, batch_size=3, batches=4, seed=0)
    [0, 3, 2, 1, 2, 0, 1, 3, 0, 1, 3, 2]
    """
    order: list[int] = []
    while len(order) < batch_size * batches:
        block = seeded_permutation(shots, "draws", seed, len(order))
        begun = len(order) % batch_size
        taken = set(order[len(order) - begun :])
        first = [index for index in block if index not in taken][: batch_size - begun]
        order += first + [index for index in block if index not in first]
    return order[: batch_size * batches]


class TrainingSet(Dataset[Sample]):
    """Views of resized support images, augmented or not. Sample i depends on i and the seed, not on who asks when.

    Process r takes samples r, r + num_processes ... as `DistributedSampler` deals them out; `batch_size` and `batches`
    are those of each process, in which the images of a batch are distinct too.
    """

    def __init__(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],
        paths: Sequence[str],
        views: int,
        batch_size: int,
        batches: int,
        seed: int,
        num_processes: int = 1,
        augments: bool = True,
    ) -> None:
        self.images, self.paths = images, paths
        self.views, self.seed, self.augments = views, seed, augments
        order = np.array(training_order(len(images), batch_size, batches * num_processes, seed))
        self.order: list[int] = order.reshape(batches, num_processes, batch_size).swapaxes(1, 2).flatten().tolist()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, number: int) -> Sample:
        if number >= len(self):
            raise IndexError(number)
        index = self.order[number]
        if not self.augments:
            return normal_sample([self.images[index]] * self.views, self.paths[index])
        seeds = [derive_seed(self.seed, 1, number, view) for view in range(self.views)]
        return normal_sample([training_view(self.images[index], seed) for seed in seeds], self.paths[index])
