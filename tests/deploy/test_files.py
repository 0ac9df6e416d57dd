import shutil
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.files import find_images, watch_folder
from tests.conftest import write_image

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def is_whole(path: Path) -> bool:
    try:
        return bool(read_image(path).size)
    except (ValueError, OSError):
        return False


def test_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.png", ".hidden.png", "notes.txt", ".cache/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def found(*sources: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_images([f"{tmp_path}/{s}" for s in sources])]

    assert found("") == ["a.JPG", "b.png", "sub/c.png"]
    assert found("*.png") == ["b.png"]
    assert found("sub/c.png", "b.png") == ["sub/c.png", "b.png"]
    assert found("**/*.png") == ["b.png", "sub/c.png"]
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert found("") == ["a.JPG", "b.png", "sub/c.png"]
    with pytest.raises(FileNotFoundError, match=r"no image .*missing.png: pass image files, a folder, or a pattern"):
        found("missing.png")


def test_a_folder_is_not_listed_before_the_first_image_is_asked_for(tmp_path: Path) -> None:
    images = find_images([str(tmp_path)])
    write_image(tmp_path / "late.png", PIXELS)
    assert next(images).name == "late.png"


def watch(folder: Path, known: set[str] | None = None, **options: float) -> "Watcher":
    return Watcher(folder, known or set(), options)


class Watcher:
    """Watches in a thread and remembers what came, and what of it could be read at that moment."""

    def __init__(self, folder: Path, known: set[str], options: dict[str, float]) -> None:
        self.seen: list[tuple[str, bool]] = []
        self._stop = threading.Event()
        options = {"interval_s": 0.02, "patience_s": 5.0} | options
        paths = watch_folder(folder, known, is_whole, self._stop.is_set, **options)
        self._thread = threading.Thread(target=lambda: self.seen.extend((p.name, is_whole(p)) for p in paths))
        self._thread.start()

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def wait_for(self, count: int, timeout_s: float = 10.0) -> None:
        end = time.monotonic() + timeout_s
        while len(self.seen) < count and time.monotonic() < end:
            time.sleep(0.01)


def test_half_written_files_are_waited_for(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "source" / "a.png", PIXELS).read_bytes()
    folder = tmp_path / "camera"
    folder.mkdir()
    with watch(folder) as watcher:
        with (folder / "slow.png").open("wb") as file:
            for part in range(0, len(whole), len(whole) // 5):
                file.write(whole[part : part + len(whole) // 5])
                file.flush()
                time.sleep(0.1)  # several looks at a file of which a part is there
                assert watcher.seen == [] or part + len(whole) // 5 >= len(whole)
        watcher.wait_for(1)
    assert watcher.seen == [("slow.png", True)]


def test_twenty_files_in_a_row_each_once(tmp_path: Path) -> None:
    source = write_image(tmp_path / "source" / "a.png", PIXELS)
    folder = tmp_path / "camera"
    folder.mkdir()
    shutil.copy(source, folder / "known.png")
    with watch(folder, {str(folder / "known.png")}) as watcher:
        for number in range(20):
            shutil.copy(source, folder / f"{number:02}.png")
        watcher.wait_for(20)
        time.sleep(0.2)
    assert sorted(watcher.seen) == [(f"{number:02}.png", True) for number in range(20)]


def test_a_file_that_stays_damaged_is_reported_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(write_image(tmp_path / ".source.png", PIXELS).read_bytes()[:500])
    with watch(tmp_path, patience_s=0.3) as watcher:
        time.sleep(0.15)
        assert watcher.seen == []
        watcher.wait_for(1)
        time.sleep(0.2)
    assert watcher.seen == [("cut.png", False)]


def test_a_file_written_anew_is_a_new_image(tmp_path: Path) -> None:
    write_image(tmp_path / "last.png", PIXELS)
    paths = watch_folder(tmp_path, set(), is_whole, interval_s=0.01)
    assert len(list(islice(paths, 1))) == 1
    write_image(tmp_path / "last.png", PIXELS[::2])
    assert [path.name for path in islice(paths, 1)] == ["last.png"]


def test_a_folder_that_is_emptied_is_forgotten(tmp_path: Path) -> None:
    with watch(tmp_path) as watcher:
        for round_number in range(1, 3):
            write_image(tmp_path / "a.png", PIXELS)
            watcher.wait_for(round_number)
            (tmp_path / "a.png").unlink()
            time.sleep(0.1)
    assert watcher.seen[0][0] == "a.png"
    assert len(watcher.seen) == 2
