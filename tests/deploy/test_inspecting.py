import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.inspecting import checked, file_sha256, file_state, find_images, watch_folder
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
    (tmp_path / "@eaDir" / "b.png").mkdir(parents=True)
    (tmp_path / "@eaDir" / "b.png" / "thumbnail.jpg").write_bytes(b"")
    assert found("") == ["a.JPG", "b.png", "sub/c.png"]
    assert found("**/*.[jJ][pP][gG]") == ["a.JPG"]
    with pytest.raises(FileNotFoundError, match=r"no image .*missing.png: pass image files, a folder, or a pattern"):
        found("missing.png")


def test_a_folder_is_not_listed_before_the_first_image_is_asked_for(tmp_path: Path) -> None:
    images = find_images([str(tmp_path)])
    write_image(tmp_path / "late.png", PIXELS)
    assert next(images).name == "late.png"


def look() -> None:
    """Nothing happens."""


def watch(
    folder: Path,
    before_each_look: list[Callable[[], object]],
    patience_s: float = math.inf,
    known: tuple[Path, ...] = (),
) -> list[tuple[str, bool]]:
    """What comes, and whether it can be read at that moment."""
    happening = iter(before_each_look)

    def should_stop() -> bool:
        happen = next(happening, None)
        if happen:
            happen()
        return happen is None

    seen = {path.absolute(): (file_state(path), file_sha256(path)) for path in known}
    paths = watch_folder(folder, seen, is_whole, should_stop, interval_s=0.0, patience_s=patience_s)
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
    found = watch(tmp_path, [*(write(tmp_path / name) for name in names), look, look], known=(tmp_path / "known.png",))
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


def test_links_are_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", PIXELS)
    for link, target in (("to_folder", "a"), ("b/inside", "a"), ("b/2.png", "a/1.png")):
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
    for source, names in (("to_folder", ["1.png"]), ("b", ["2.png", "1.png"]), ("to_folder/*.png", ["1.png"])):
        assert [path.name for path in find_images([f"{tmp_path}/{source}"])] == names


@pytest.mark.parametrize("output", ["cam/found", "cam/a/b", "cam"])
def test_what_predict_wrote_is_no_input(output: str, tmp_path: Path) -> None:
    for name in (
        "cam/1.png",
        "cam/masks2/2.png",
        *(f"{output}/{n}" for n in ("overlays/0.png", "masks/0.png", "contact_sheet.png")),
    ):
        write_image(tmp_path / name, PIXELS)
    (tmp_path / output / "predictions.jsonl").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / output / "overlays")
    for source in ("cam", "cam/**/*.png"):
        assert [path.name for path in find_images([f"{tmp_path}/{source}"])] == ["1.png", "2.png"]
    assert not list(find_images([f"{tmp_path}/link", f"{tmp_path}/{output}/overlays/0.png"]))
    assert [name for name, _ in watch(tmp_path / "cam", [look, look])] == ["1.png", "2.png"]


def test_a_restart_goes_by_content(tmp_path: Path) -> None:
    same, touched, rewritten, sneaked = (write_image(tmp_path / f"{n}.bmp", PIXELS) for n in "abcd")
    known = {path: (file_state(path), file_sha256(path)) for path in (same, touched, rewritten, sneaked)}
    os.utime(touched)
    write_image(rewritten, PIXELS[::-1])
    before = sneaked.stat()
    write_image(sneaked, PIXELS[:, ::-1])  # size and time are those of before
    os.utime(sneaked, ns=(before.st_atime_ns, before.st_mtime_ns))
    looks = iter([False, False, True])
    found = watch_folder(tmp_path, known, is_whole, lambda: next(looks), interval_s=0.0)
    assert list(found) == [rewritten, sneaked]


def test_a_touched_file_is_no_new_image_and_a_vanished_folder_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "cam" / "last.png"
    happening = [write(path), look, lambda: os.utime(path), look, write(path, step=2), look]
    path.parent.mkdir()
    assert [name for name, _ in watch(path.parent, [*happening, look, lambda: shutil.rmtree(path.parent), look])] == [
        "last.png", "last.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (
            PIXELS.astype(np.float32) / 255,
            r"image 1 is a float32 array of shape \(64, 64, 3\): pass a list of uint8 RGB",
        ),
        (PIXELS.astype(np.uint16), "a uint16 array"),
        (PIXELS > 9, "a bool array"),
        (PIXELS[..., 0], r"of shape \(64, 64\)"),
        (np.dstack([PIXELS, PIXELS[..., :1]]), r"of shape \(64, 64, 4\)"),
        (PIXELS.transpose(2, 0, 1), r"of shape \(3, 64, 64\)"),
        (PIXELS[:0], r"of shape \(0, 64, 3\)"),
        ("part.png", "image 1 is a str"),
    ],
)
def test_frames_of_another_kind_are_refused(image: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        checked([PIXELS, image])
    assert checked([PIXELS[::2, ::-1]])[0].flags.c_contiguous
