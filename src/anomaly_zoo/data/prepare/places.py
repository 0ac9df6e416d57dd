"""Finding the files of a dataset, and naming their places in the MVTec layout."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from anomaly_zoo.data.image_files import subfolders
from anomaly_zoo.data.prepare.tree import Source
from anomaly_zoo.data.support import seeded_permutation

_DEPTH = 3  # folders that authors and unpackers wrap around a dataset


def locate(folder: Path, *patterns: str) -> Path:
    """Finds the dataset inside the folders that are wrapped around it, by globs such as `*/train/good` that it matches.

    Raises:
        FileNotFoundError: there is none.
    """
    level = [folder]
    for _ in range(_DEPTH + 1):
        for candidate in level:
            if all(any(candidate.glob(pattern)) for pattern in patterns):
                return candidate
        level = [child for parent in level for child in subfolders(parent)]
    raise FileNotFoundError(f"{folder} does not hold what it should, {' and '.join(patterns)}: is it another dataset?")


def inside(root: Path, name: str) -> Path:
    """The file below `root` that a list of the dataset names: lists come from strangers, as archives do.

    Raises:
        ValueError: it is absolute, or leads out of `root`.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise ValueError(f"a list in {root} names {name!r}, which leads out of it: is it the published one?")
    return root / path


def placed(folder: str, images: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Every image with its place in a folder of the tree, such as `screw/train/good`, under its own name."""
    return ((f"{folder}/{path.name}", path) for path in images)


def with_masks(folder: str, pairs: Iterable[tuple[Path, Source]]) -> Iterator[tuple[str, Source]]:
    """Every image and its mask with their places; the folder is that of the images, such as `screw/test/hole`.

    Raises:
        FileNotFoundError: a mask is not there.
    """
    for image, mask in pairs:
        if isinstance(mask, Path) and not mask.is_file():
            raise FileNotFoundError(f"{image} is anomalous, but its mask {mask} is missing: is the dataset complete?")
        suffix = mask.suffix.lower() if isinstance(mask, Path) else ".png"
        yield f"{folder}/{image.name}", image
        yield f"{folder.replace('/test/', '/ground_truth/', 1)}/{image.stem}_mask{suffix}", mask


def split_normal(
    dataset: str, category: str, images: Sequence[Path], num_train: int | None = None
) -> Iterator[tuple[str, Path]]:
    """Splits normal images into training and test images by a fixed draw, for datasets without a split of their own.

    Args:
        dataset: names the draw, as does the category.
        category: the category's name.
        images: their order matters, so sort them by something that never changes.
        num_train: training images; by default half of all, rounded down, but at least one.
    """
    shuffled = [images[index] for index in seeded_permutation(len(images), dataset, category)]
    half = num_train or max(1, len(images) // 2)
    yield from placed(f"{category}/train/good", shuffled[:half])
    yield from placed(f"{category}/test/good", shuffled[half:])
