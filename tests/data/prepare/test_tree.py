import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.prepare import tree
from anomaly_zoo.data.prepare.tree import Files, damaged_files, is_finished, split_normal, thin_out, write_tree
from tests.conftest import write_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "source" / "a.png", np.zeros((4, 4), np.uint8))


def test_what_is_written(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "set"
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    files: Files = {"c/train/good/a.png": image, "c/test/good/b.png": lambda: pixels}
    write_tree(target, files, {"licence": "free"}, {"max_test": 3})
    assert json.loads((target / "source.json").read_text()) == {
        "licence": "free",
        "max_test": 3,
        "images": {"c/test/good": 1, "c/train/good": 1},
    }
    assert (target / "c/train/good/a.png").stat().st_ino == image.stat().st_ino
    assert is_finished(target, {"max_test": 3})
    with pytest.raises(FileExistsError, match="was made with max_test=3, not None"):
        is_finished(target, {"max_test": None})
    assert damaged_files(target) == []
    (target / "c/test/good/b.png").write_bytes(b"other")
    assert len(damaged_files(target)) == 1
    assert damaged_files(tmp_path / "source") == []
    for content in ("{", "[]x", "[1]", "3", "null"):
        (target / "source.json").write_text(content)
        with pytest.raises(FileExistsError, match=r"source\.json is damaged .*delete .*set and prepare it again"):
            is_finished(target, {"max_test": 3})


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "no images found: is this the folder"),
        (["../c/a.png"], "is no place for an image"),
        (["/c/a.png"], "is no place for an image"),
        (["c/train/good/a.exe"], "is no place for an image"),
        (["c/train/good/a.png", "c/train/good/A.png"], "differ in case only: rename one"),
    ],
)
def test_places_are_checked(places: list[str], message: str, image: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_tree(tmp_path / "set", dict.fromkeys(places, image), {}, {})
    with pytest.raises(FileNotFoundError, match=r"gone\.png is missing: unpack or install"):
        write_tree(tmp_path / "set", {"c/train/good/a.png": tmp_path / "gone.png"}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def many(image: Path) -> Files:
    return {f"c/train/good/{number}.png": image for number in range(50)}


def test_an_empty_folder_may_be_there_and_nothing_else(image: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_tree(tmp_path / "set", many(image), {}, {})
    assert is_finished(tmp_path / "set", {})
    for path in (image, image.parent):
        with pytest.raises(FileExistsError, match="exists and is not a finished conversion"):
            is_finished(path, {})


def test_without_hard_links_it_copies(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_tree(tmp_path / "set", many(image), {}, {})
    copy = tmp_path / "set" / "c" / "train" / "good" / "0.png"
    assert (copy.stat().st_nlink, copy.read_bytes()) == (1, image.read_bytes())


def test_an_interrupted_conversion_leaves_nothing(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(source: Path, target: Path) -> None:
        if target.name == "30.png":
            raise KeyboardInterrupt

    monkeypatch.setattr(tree, "_link_or_copy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_tree(tmp_path / "set", many(image), {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from anomaly_zoo.data.prepare import tree
original, calls = tree._link_or_copy, []
def link(*paths):
    original(*paths)
    calls.append(paths)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
tree._link_or_copy = link
files = {f"c/train/good/{number}.png": Path(sys.argv[2]) for number in range(50)}
time.sleep(max(0, float(sys.argv[4]) - time.time()))
if not tree.is_finished(Path(sys.argv[1]), {}):
    tree.write_tree(Path(sys.argv[1]), files, {}, {})
"""


def start(target: Path, image: Path, killed_after: int = 0, start_at: float = 0) -> subprocess.Popen[bytes]:
    arguments = [str(argument) for argument in (target, image, killed_after, start_at)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stderr=subprocess.PIPE)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_conversion_is_simply_done_again(image: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "set", image, killed_after=30)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    assert [path.suffix for path in tmp_path.iterdir() if path != image.parent] == [".tmp"]
    write_tree(tmp_path / "set", many(image), {}, {})
    assert is_finished(tmp_path / "set", {})


def test_concurrent_conversions_agree(image: Path, tmp_path: Path) -> None:
    processes = [start(tmp_path / "set", image, start_at=time.time() + 5) for _ in range(3)]
    for process in processes:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"]
    assert damaged_files(tmp_path / "set") == []


def test_losing_the_race_is_no_error(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tree._build

    def slow(building: Path, files: Files) -> None:
        build(building, files)
        monkeypatch.setattr(tree, "_build", build)
        write_tree(tmp_path / "set", many(image), {}, {})  # another process finishes first

    monkeypatch.setattr(tree, "_build", slow)
    write_tree(tmp_path / "set", many(image), {}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "source"]


def test_the_split_of_normal_images() -> None:
    paths = [Path(f"{number}.png") for number in range(9)]
    files = dict(split_normal("set", "c", paths))
    assert sorted(files.values()) == paths
    assert [path for place, path in files.items() if place.startswith("c/test/good/")] == list(files.values())[4:]
    assert dict(split_normal("set", "c", paths)) == files
    assert list(dict(split_normal("set", "d", paths)).values()) != list(files.values())
    assert list(split_normal("set", "c", paths[:1])) == [("c/train/good/0.png", paths[0])]
    assert sum("train" in place for place, _ in split_normal("set", "c", paths, num_train=8)) == 8


def test_thin_out_keeps_masks_and_training_images(image: Path) -> None:
    files = {f"c/train/good/{number}.png": image for number in range(5)}
    files |= {f"c/test/good/{number}.png": image for number in range(5)}
    for defect in ("hole", "scratch"):
        files |= {f"c/test/{defect}/{number}.jpg": image for number in range(5)}
        files |= {f"c/ground_truth/{defect}/{number}_mask.png": image for number in range(5)}
    some = thin_out(files, 3)
    kinds = [sum(part in place for place in some) for part in ("train/", "test/good", "test/", "ground_truth/")]
    assert kinds == [5, 3, 6, 3]
    images = {place.split("/", 2)[2].split(".")[0] for place in some if "/test/" in place and "good" not in place}
    masks = {place.split("/", 2)[2].removesuffix("_mask.png") for place in some if "ground_truth" in place}
    assert images == masks
    assert thin_out(files, 3) == some
    assert len(thin_out(files, 2)) < len(some)
    assert set(thin_out(files, 2)) <= set(some)
    assert thin_out(files, None) is files
    with pytest.raises(ValueError, match="max_test is 0: choose 1 or more"):
        thin_out(files, 0)


def test_thin_out_keeps_the_regions_of_what_it_keeps(image: Path) -> None:
    images = [f"c/{folder}/{number}.png" for folder in ("train/good", "test/good", "test/hole") for number in range(5)]
    regions = [place.replace("c/", "c/region/") for place in images]
    some = thin_out(dict.fromkeys([*images, *regions, "c/region.json"], image), 2)
    assert len(some) == 2 * (5 + 2 + 2) + 1
    assert all(place.replace("region/", "") in some for place in some)
