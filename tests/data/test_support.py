import shutil
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.support import category_folder, seeded_permutation, support_paths, support_sha256
from tests.conftest import write_image


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_supports_are_nested(tiny_root: Path) -> None:
    everything = support_paths(tiny_root, "tiny", "alpha", 6, 0)
    assert sorted(names(everything)) == [f"{index:03}.png" for index in range(6)]
    for shots in range(1, 6):
        assert support_paths(tiny_root, "tiny", "alpha", shots, 0) == everything[:shots]


def test_the_draw_depends_on_dataset_category_and_seed(tiny_root: Path) -> None:
    draws = {
        tuple(names(support_paths(tiny_root, dataset, category, 6, seed)))
        for dataset in ("tiny", "other")
        for category in ("alpha", "beta")
        for seed in (0, 1, 2)
    }
    assert len(draws) == 12


def test_the_draw_never_changes(tiny_root: Path) -> None:
    """Stored results are only comparable as long as these numbers stay."""
    drawn = names(support_paths(tiny_root, "tiny", "alpha", 6, 0))
    assert drawn == [f"{index:03}.png" for index in (5, 2, 4, 0, 3, 1)]
    assert seeded_permutation(10, "mvtec_ad", "bottle", 0) == [5, 3, 2, 4, 1, 9, 7, 0, 6, 8]


def test_the_draw_does_not_depend_on_the_place(tiny_root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_root, moved)
    (moved / "alpha" / "train" / "good" / ".DS_Store").touch()
    (moved / "alpha" / "train" / "good" / "._000.png").touch()
    here, there = (support_paths(root, "tiny", "alpha", 4, 1) for root in (tiny_root, moved))
    assert names(here) == names(there)
    assert support_sha256(here, tiny_root) == support_sha256(there, moved)
    assert support_sha256(here, tiny_root) != support_sha256(here[::-1], tiny_root)
    assert support_sha256(here, tiny_root) != support_sha256(here[:3], tiny_root)


def test_permutations_are_permutations() -> None:
    for count in (0, 1, 2, 50):
        assert sorted(seeded_permutation(count, "key")) == list(range(count))
    first = [seeded_permutation(10, "key", seed)[0] for seed in range(2000)]
    assert all(150 < first.count(value) < 250 for value in range(10))


def test_missing_folders_are_named(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset folder .*nowhere does not exist: pass a folder in the MVTec"):
        category_folder(tmp_path / "nowhere", "alpha")
    file = write_image(tmp_path / "file.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"file\.png is a file: pass a folder"):
        category_folder(file, "alpha")
    with pytest.raises(FileNotFoundError, match=r"no category 'Alpha' in .*: choose one of alpha, beta"):
        category_folder(tiny_root, "Alpha")
    with pytest.raises(FileNotFoundError, match=r"no category '' in"):
        category_folder(tiny_root, "")
    with pytest.raises(FileNotFoundError, match=r"is itself a category: pass its parent as root and 'alpha' as cat"):
        category_folder(tiny_root / "alpha", "alpha")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no category at all; is the dataset unpacked"):
        category_folder(tmp_path / "empty", "alpha")


def test_missing_training_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "alpha").mkdir()
    with pytest.raises(FileNotFoundError, match=r"good does not exist: put the normal training images there"):
        support_paths(tmp_path, "tiny", "alpha", 1, 0)
    (tmp_path / "alpha" / "train" / "good").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"good holds no images: put the normal training images there"):
        support_paths(tmp_path, "tiny", "alpha", 1, 0)


@pytest.mark.parametrize("shots", [-1, 0, 7])
def test_shots_out_of_range(tiny_root: Path, shots: int) -> None:
    with pytest.raises(ValueError, match=rf"shots is {shots}, but .* holds 6 normal images: choose shots from 1 to 6"):
        support_paths(tiny_root, "tiny", "alpha", shots, 0)


def test_negative_seed(tiny_root: Path) -> None:
    with pytest.raises(ValueError, match="seed is -1: choose 0 or more"):
        support_paths(tiny_root, "tiny", "alpha", 1, -1)


def test_a_folder_of_ones_own_must_be_prepared(tmp_path: Path) -> None:
    (tmp_path / "parts" / "bracket" / "normal").mkdir(parents=True)
    for root in (tmp_path / "parts", tmp_path / "parts" / "bracket"):
        with pytest.raises(FileNotFoundError, match=r"bracket is .* not prepared yet: .*data prepare .*/bracket$"):
            support_paths(root, "parts", "bracket", shots=1, seed=0)
