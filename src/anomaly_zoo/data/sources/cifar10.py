"""One-class CIFAR-10, the controlled benchmark: one class is normal, the nine others are anomalous.

Ten categories, named by their normal class. Its 5,000 training images are the training images, its 1,000 test images
the normal test images, and each of the other classes is a defect. There are no masks. The binary edition is read,
`data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`: the Python edition consists of pickles, which run code.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from functools import partial
from pathlib import Path

import numpy as np

from anomaly_zoo.data.conversion import About, convert, locate
from anomaly_zoo.data.download import Download, Progress
from anomaly_zoo.data.tree import Files, Pixels

ABOUT = About(
    title="CIFAR-10",
    licence="CIFAR-10 states no licence; its page asks for the citation.",
    citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    by_hand="Get cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html.",
    download=Download(
        "cifar-10-binary.tar.gz",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        num_bytes=170_052_171,
    ),
    published=(50_000, 10_000, 90_000),
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DEFAULT_MAX_TEST = 100

_SIDE = 32
_RECORD = 1 + 3 * _SIDE**2  # a label, then the red, green and blue planes


def arrange(folder: Path) -> Files:
    """Where every image goes; images are numbered as in their file."""
    root = locate(folder, "data_batch_*.bin", "test_batch.bin")
    train = np.concatenate([_records(file) for file in sorted(root.glob("data_batch_*.bin"))])
    test = _records(root / "test_batch.bin")
    files: dict[str, Path | Pixels] = {}
    for label, category in enumerate(CLASSES):
        for number in np.flatnonzero(train[:, 0] == label):
            files[f"{category}/train/good/{number:05}.png"] = partial(_pixels, train[number])
        for index, record in enumerate(test):
            kind = "good" if record[0] == label else CLASSES[record[0]]
            files[f"{category}/test/{kind}/{index:05}.png"] = partial(_pixels, record)
    return files


def prepare(
    target: Path | str,
    raw: Path | str | None = None,
    max_test: int | None = DEFAULT_MAX_TEST,
    progress: Progress | None = None,
) -> Path:
    """Writes the dataset; see `conversion.convert`. All of its test images would be 100,000 files."""
    return convert(ABOUT, arrange, target, raw, max_test, progress)


def _records(file: Path) -> np.ndarray:
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % _RECORD or data[::_RECORD].max() >= len(CLASSES):
        raise ValueError(f"{file} has {len(data)} bytes, which are no CIFAR-10 images of {_RECORD} bytes: get it again")
    return data.reshape(-1, _RECORD)


def _pixels(record: np.ndarray) -> np.ndarray:
    pixels: np.ndarray = record[1:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
    return pixels
