import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.inspecting import find_images, watch_folder
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


def look() -> None:
    """Nothing happens."""


def watch(
    folder: Path, before_each_look: list[Callable[[], object]], patience_s: float = math.inf, known: str = ""
) -> list[tuple[str, bool]]:
    """What comes, and whether it can be read at that moment."""
    happening = iter(before_each_look)

    def should_stop() -> bool:
        happen = next(happening, None)
        if happen:
            happen()
        return happen is None

    paths = watch_folder(folder, {known}, is_whole, should_stop, interval_s=0.0, patience_s=patience_s)
    return [(path.name, is_whole(path)) for path in paths]


def write(path: Path, step: int = 1) -> Callable[[], object]:
    return lambda: write_image(path, PIXELS[::step])


def test_half_written_files_are_waited_for(tmp_path: Path) -> None:
    content = write_image(tmp_path / ".source.png", PIXELS).read_bytes()
    parts: list[Callable[[], object]] = [
        lambda end=end: (tmp_path / "slow.png").write_bytes(content[:end])  # type: ignore[misc]
        for end in range(1000, len(content), 1000)
    ]
    waiting = [action for part in parts for action in (part, look)]
    assert watch(tmp_path, waiting) == []
    assert watch(tmp_path, [*waiting, write(tmp_path / "slow.png"), look, look]) == [("slow.png", True)]


def test_twenty_files_in_a_row_each_once(tmp_path: Path) -> None:
    write_image(tmp_path / "known.png", PIXELS)
    names = [f"{number:02}.png" for number in range(20)]
    found = watch(tmp_path, [*(write(tmp_path / name) for name in names), look, look], known=f"{tmp_path}/known.png")
    assert found == [(name, True) for name in names]


def test_a_file_that_stays_damaged_is_reported_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(write_image(tmp_path / ".source.png", PIXELS).read_bytes()[:500])
    assert watch(tmp_path, [look] * 5) == []
    assert watch(tmp_path, [look] * 5, patience_s=0.0) == [("cut.png", False)]


def test_a_file_written_anew_is_a_new_image(tmp_path: Path) -> None:
    happening = [write(tmp_path / "last.png"), look, look, write(tmp_path / "last.png", step=2), look, look]
    assert watch(tmp_path, happening) == [("last.png", True)] * 2


def test_a_folder_that_is_emptied_is_forgotten(tmp_path: Path) -> None:
    once = [write(tmp_path / "a.png"), look, (tmp_path / "a.png").unlink]
    assert watch(tmp_path, once * 2) == [("a.png", True)] * 2
