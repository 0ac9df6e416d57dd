"""Which normal images a run may see: one seeded permutation per (dataset, category, seed), and its first k files."""

import hashlib
import json
from pathlib import Path

import numpy as np

from anomaly_zoo.data.category import means_normal
from anomaly_zoo.data.image_files import image_files, same_name, subfolders

_PREPARE = "{0} is a folder of images that is not prepared yet: python -m anomaly_zoo.data prepare {0}"


def seeded_permutation(count: int, *key: str | int) -> list[int]:
    """Permutes 0 .. count - 1, the same way everywhere; near keys give unrelated permutations.

    >>> seeded_permutation(6, "elpv", "mono", 0)
    [1, 3, 0, 2, 5, 4]
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    # NumPy promises a fixed stream for its bit generators, but not for Generator.permutation (NEP 19)
    numbers = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(count)
    return [int(index) for index in np.argsort(numbers, kind="stable")]


def derive_seed(*key: int) -> int:
    """Mixes several non-negative numbers into one seed: near keys give unrelated random streams."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def category_folder(root: Path, category: str) -> Path:
    """Finds the folder of a category, by its exact name; FileNotFoundError names those that are there."""
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        wanted = "pass a folder in the MVTec layout, <root>/<category>/train/good/*.png"
        raise FileNotFoundError(f"the dataset folder {root} {found}: {wanted}")
    categories = [folder.name for folder in subfolders(root)]
    if category in categories:
        return root / category
    alike = [name for name in categories if same_name(name) == same_name(category)]
    if alike:
        hint = f"{root / alike[0]} only looks the same, its umlauts are written otherwise (Unicode): rename it"
    elif (root / "train").is_dir():
        hint = f"{root} is itself a category: pass its parent as root and {root.resolve().name!r} as category"
    elif _is_unprepared(root):
        hint = _PREPARE.format(root)
    elif categories:
        hint = f"choose one of {', '.join(categories)}"
    else:
        hint = "the folder holds no category at all; is the dataset unpacked?"
    raise FileNotFoundError(f"no category {category!r} in {root}: {hint}")


def _is_unprepared(folder: Path) -> bool:
    return (folder / "normal").is_dir() and not (folder / "train").is_dir()


def support_paths(root: Path, dataset: str, category: str, shots: int, seed: int) -> list[Path]:
    """Draws the support: the first `shots` files of one permutation of the normal training images, seeded by the names.

    The 4-shot support is therefore inside the 8-shot support, and every method sees the same files. FileNotFoundError
    if there are none, ValueError if `shots` or `seed` is out of range.
    """
    folder = category_folder(root, category) / "train" / "good"
    files = image_files(folder)
    if not files:
        if _is_unprepared(root / category):
            raise FileNotFoundError(_PREPARE.format(root / category))
        found = "holds no images" if folder.is_dir() else "does not exist"
        meant = next((sub for sub in subfolders(folder.parent) if means_normal(sub.name) and sub != folder), None)
        put = "put the normal training images there (png, jpg, bmp, tif, webp)"
        raise FileNotFoundError(f"{folder} {found}: {f'rename {meant} to good' if meant else put}")
    if not 1 <= shots <= len(files):
        found = f"{folder} holds {len(files)} normal images"
        raise ValueError(f"shots is {shots}, but {found}: choose shots from 1 to {len(files)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}: choose 0 or more")
    return [files[index] for index in seeded_permutation(len(files), dataset, category, seed)[:shots]]


def support_sha256(paths: list[Path], root: Path) -> str:
    """Names a support by the hash of its paths inside `root`, to tell whether two results come from the same files."""
    return hashlib.sha256("\n".join(path.relative_to(root).as_posix() for path in paths).encode()).hexdigest()
