"""What `check` says of a folder, and what `bench`, `fit` and `prepare` refuse: by names, and by what files hold."""

import logging
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.data.__main__ import main
from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.prepare import own_folder
from tests.conftest import write_image

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Prüf_ä") for form in ("NFC", "NFD"))


@pytest.fixture
def mvtec(tiny_root: Path, tmp_path: Path) -> Path:
    """A dataset with the one category alpha, to be changed."""
    shutil.copytree(tiny_root / "alpha", tmp_path / "set" / "alpha")
    return tmp_path / "set"


@pytest.fixture
def own(tiny_root: Path, tmp_path: Path) -> Path:
    """A folder of a user's own: 6 normal images, 3 anomalous ones with masks."""
    alpha, folder = tiny_root / "alpha", tmp_path / "own"
    shutil.copytree(alpha / "train" / "good", folder / "normal")
    shutil.copytree(alpha / "test" / "large", folder / "anomalous")
    shutil.copytree(alpha / "ground_truth" / "large", folder / "masks")
    return folder


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, str]]:
    def run(folder: Path) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["check", str(folder)])
        return status, capsys.readouterr().out

    return run


Check = Callable[[Path], tuple[int, str]]


def pixels_of(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def masks_of(folder: Path) -> list[Path]:
    return sorted((folder / "masks").iterdir())


def test_nothing_is_noted_where_nothing_is_wrong(mvtec: Path, own: Path, check: Check) -> None:
    for folder in (mvtec, own, mvtec / "alpha"):
        status, said = check(folder)
        assert status == 0
        assert "note: " not in said
        assert "problem: " not in said
    assert f"3 normal training images in {own}/normal" in check(own)[1]
    assert "CATEGORY=alpha" in check(mvtec / "alpha")[1]


@pytest.mark.parametrize("name", ["Good", "GOOD", "OK", "ok", "Normal", "pass", "good_2", "defect-free"])
def test_folders_named_as_if_normal_are_no_defects(mvtec: Path, own: Path, check: Check, name: str) -> None:
    shutil.copytree(mvtec / "alpha" / "test" / "good", mvtec / "alpha" / "test" / name)
    status, said = check(mvtec)
    assert status == 1
    assert f"problem: the images in {mvtec}/alpha/test/{name} would count as a defect" in said
    with pytest.raises(ValueError, match=f"test/{name} would count as a defect"):
        MVTecDataModule(mvtec, "alpha", shots=2).setup("fit")
    shutil.copytree(own / "normal", own / "anomalous" / name)
    status, said = check(own)
    assert status == 1
    assert f"problem: {own}/anomalous/{name} would count as anomalous" in said


@pytest.mark.parametrize("name", ["Good", "OK", "normal"])
def test_training_images_in_a_folder_of_another_name(mvtec: Path, check: Check, name: str) -> None:
    (mvtec / "alpha" / "train" / "good").rename(mvtec / "alpha" / "train" / name)
    status, said = check(mvtec)
    assert status == 1
    assert "alpha has no normal training images: put them into train/good" in said
    assert f"6 images in {mvtec}/alpha/train/{name} passed over" in said
    with pytest.raises(FileNotFoundError, match=f"does not exist: rename .*train/{name} to good"):
        MVTecDataModule(mvtec, "alpha", shots=2).setup("fit")


@pytest.mark.parametrize("name", ["Masks", "ANOMALOUS"])
def test_folders_in_another_case_are_not_passed_over(own: Path, check: Check, name: str) -> None:
    (own / name.lower()).rename(own / name)
    assert check(own) == (1, f"problem: {own}/{name} would be passed over: rename it to {name.lower()}\n")


@pytest.mark.parametrize("second", ["000.jpg", "000.PNG", "000.tif"])
def test_one_mask_for_two_images_is_refused(mvtec: Path, own: Path, check: Check, second: str, tmp_path: Path) -> None:
    image = pixels_of(own / "anomalous" / "001.png")
    for folder in (own / "anomalous", mvtec / "alpha" / "test" / "large"):
        write_image(folder / second, image)
    for folder in (own, mvtec):
        status, said = check(folder)
        assert status == 1
        assert "would share the mask" in said
        assert second in said
    with pytest.raises(ValueError, match="would share the mask"):
        own_folder.prepare(own, tmp_path / "out")
    with pytest.raises(ValueError, match="would share the mask"):
        MVTecDataset(mvtec, "alpha", (32, 32))


@pytest.mark.parametrize("second", ["000.png", "000.bmp", "000_mask.jpg", "000_MASK.png"])
def test_two_masks_for_one_image_are_refused(mvtec: Path, own: Path, check: Check, second: str, tmp_path: Path) -> None:
    mask = pixels_of(own / "masks" / "000_mask.png")
    for folder in (own / "masks", mvtec / "alpha" / "ground_truth" / "large"):
        write_image(folder / second, 255 - mask)
    for folder in (own, mvtec):
        status, said = check(folder)
        assert status == 1
        assert "000.png has two masks" in said
        assert second in said
    with pytest.raises(ValueError, match="has two masks"):
        own_folder.prepare(own, tmp_path / "out")
    with pytest.raises(ValueError, match="has two masks"):
        MVTecDataset(mvtec, "alpha", (32, 32))


def test_an_image_whose_name_ends_like_that_of_a_mask(own: Path, check: Check) -> None:
    (own / "anomalous" / "000.png").rename(own / "anomalous" / "000_mask.png")
    assert check(own)[0] == 0


def test_names_that_look_the_same_are_the_same(mvtec: Path, own: Path, check: Check, tmp_path: Path) -> None:
    alpha = mvtec / "alpha"
    for image, mask in ((COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)):
        (own / "anomalous" / "000.png").rename(own / "anomalous" / f"{image}.png")
        (own / "masks" / "000_mask.png").rename(own / "masks" / f"{mask}.png")
        assert check(own)[0] == 0
        target = own_folder.prepare(own, tmp_path / image / "own")
        assert MVTecDataset(target, "own", (32, 32)).has_masks
        (own / "anomalous" / f"{image}.png").rename(own / "anomalous" / "000.png")
        (own / "masks" / f"{mask}.png").rename(own / "masks" / "000_mask.png")
    (alpha / "test" / "large").rename(alpha / "test" / COMPOSED)
    (alpha / "ground_truth" / "large").rename(alpha / "ground_truth" / DECOMPOSED)
    assert check(mvtec)[0] == 0
    items = MVTecDataset(mvtec, "alpha", (32, 32))
    assert all(items[index].mask.any() for index in range(9) if items.labels[index])
    shutil.copy(own / "anomalous" / "000.png", own / "anomalous" / f"{COMPOSED}.png")
    shutil.copy(own / "anomalous" / "001.png", own / "anomalous" / f"{DECOMPOSED}.png")
    shutil.copy(own / "masks" / "001_mask.png", own / "masks" / f"{COMPOSED}.png")
    assert check(own)[0] == 1


@pytest.mark.parametrize("name", ["000.json", "notes.txt", "labels.xml", "photo.heic", "anim.gif"])
def test_other_files_among_images_are_named(mvtec: Path, own: Path, check: Check, name: str) -> None:
    suffix = Path(name).suffix
    for path in masks_of(own):
        path.unlink()
    (own / "masks" / name).touch()
    assert f"note: 1 {suffix} file in {own}/masks passed over ({name}): no images" in check(own)[1]
    for folder in ("test/large", "ground_truth/small", "train/good"):
        (mvtec / "alpha" / folder / name).touch()
        assert f"note: 1 {suffix} file in {mvtec}/alpha/{folder} passed over ({name})" in check(mvtec)[1]


def test_images_where_nobody_looks_are_named(mvtec: Path, check: Check, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("validation/0.png", "validation/1.png", "train/good/monday/0.png", "test/0.png"):
        write_image(mvtec / "alpha" / name, np.zeros((48, 48), np.uint8))
    (mvtec / "alpha" / "about.json").touch()  # not where images are
    said = check(mvtec)[1]
    for folder, number in (("validation", "2 images"), ("train/good/monday", "1 image"), ("test", "1 image")):
        assert f"note: {number} in {mvtec}/alpha/{folder} passed over" in said
    assert said.count("note: ") == 3
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # each note once
            MVTecDataModule(mvtec, "alpha", shots=2).setup("fit")
    assert sum("passed over" in message for message in caplog.messages) == 3


@pytest.mark.parametrize(
    "name", ["@eaDir/000.png/SYNOPHOTO_THUMB_S.jpg", "__MACOSX/a.png", "#recycle/a.png", ".Trash-1000/a.png"]
)
def test_system_folders_are_left_out_and_named(mvtec: Path, own: Path, check: Check, name: str) -> None:
    system = name.split("/")[0]
    for folder in (own, own / "anomalous", own / "normal", own / "masks"):
        write_image(folder / name, np.zeros((32, 32), np.uint8))
    for folder in (mvtec, mvtec / "alpha" / "test", mvtec / "alpha" / "test" / "large"):
        write_image(folder / name, np.zeros((32, 32), np.uint8))
    for folder, number in ((own, 3), (mvtec, 6)):
        status, said = check(folder)
        assert status == 0
        assert f"{number} anomalous test images" in said
        assert "ignored, hidden or of the system: " in said
        assert system in said
        assert "note: " not in said
    assert MVTecDataset(mvtec, "alpha", (32, 32)).defects == ["large", "small"]


def test_links_to_files_and_folders_are_followed_and_circles_end(own: Path, mvtec: Path, check: Check) -> None:
    (own / "elsewhere").mkdir()
    for kind in ("anomalous", "masks"):
        (own / kind).rename(own.parent / kind)
        (own / kind).mkdir()
        (own / kind / "bent").symlink_to(own.parent / kind)
        (own / kind / "circle").symlink_to(own / kind)
        (own / kind / "up").symlink_to("..")
    first = own / "normal" / "000.png"
    first.rename(own.parent / "first.png")
    first.symlink_to(own.parent / "first.png")
    link = own.parent / "link"
    link.symlink_to(own)
    status, said = check(link)
    assert status == 0
    assert "3 anomalous test images" in said
    assert "3 masks" in said
    (mvtec / "beta").symlink_to("alpha")
    assert check(mvtec)[0] == check(mvtec / "beta")[0] == 0


def test_links_to_nowhere_are_no_files_that_are_missing(mvtec: Path, own: Path, check: Check, tmp_path: Path) -> None:
    for folder, path in ((mvtec, mvtec / "alpha" / "test" / "large" / "gone.png"), (own, own / "masks" / "gone")):
        path.symlink_to("nowhere")
        status, said = check(folder)
        assert status == 1
        assert f"problem: {path} is a link to nowhere, which is not there: mend or remove it" in said
    with pytest.raises(ValueError, match="is a link to nowhere"):
        MVTecDataset(mvtec, "alpha", (32, 32))
    with pytest.raises(ValueError, match="is a link to nowhere"):
        own_folder.prepare(own, tmp_path / "out")


@pytest.mark.parametrize(("where", "copy"), [
    ("test/good", "copy.png"), ("train/good", "copy.png"), ("test/good", "copy.bmp"), ("train/good", "copy.tif"),
])  # fmt: skip
def test_one_image_with_two_labels_is_a_problem(mvtec: Path, check: Check, where: str, copy: str) -> None:
    source, target = mvtec / "alpha" / "test" / "small" / "001.png", mvtec / "alpha" / where / copy
    write_image(target, pixels_of(source))
    status, said = check(mvtec)
    assert status == 1
    assert f"problem: {target} is normal and {source} anomalous, but they are one image" in said


def test_copies_are_noted_in_all_splits(mvtec: Path, own: Path, check: Check) -> None:
    alpha, rng = mvtec / "alpha", np.random.default_rng(0)
    image = pixels_of(alpha / "train" / "good" / "002.png")
    noisy = np.clip(image + rng.normal(0, 1, image.shape), 0, 255).astype(np.uint8)
    write_image(alpha / "test" / "good" / "copy.jpg", noisy)
    assert "copy.jpg look like one image, in training and test" in check(mvtec)[1]
    write_image(alpha / "test" / "large" / "again.png", noisy)
    write_image(alpha / "ground_truth" / "large" / "again.png", np.eye(48, dtype=np.uint8))
    assert "again.png look like one image, in the test split, one normal and one anomalous" in check(mvtec)[1]
    write_image(alpha / "train" / "good" / "burst.png", image)
    assert "002.png, burst.png: look like copies of each other, or one part seen" in check(mvtec)[1]


def save_masks(own: Path, change: Callable[[np.ndarray], Image.Image], suffix: str, **options: Any) -> None:
    for path in masks_of(own):
        pixels = pixels_of(path)
        path.unlink()
        change(pixels).save(path.with_suffix(suffix), **options)


GREY: Callable[[np.ndarray], Image.Image] = Image.fromarray


@pytest.mark.parametrize(
    "kind", ["jpeg", "jpeg with colours", "webp", "soft edges", "jpeg saved again as png", "0 to 1"]
)
def test_soft_masks_are_cut_at_half_of_their_range(own: Path, check: Check, kind: str, tmp_path: Path) -> None:
    before = [MVTecDataset(own_folder.prepare(own, tmp_path / "a" / "own"), "own", (48, 48))[i].mask for i in range(3)]

    def again(pixels: np.ndarray) -> Image.Image:
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        return Image.fromarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)))

    if kind == "jpeg":
        save_masks(own, GREY, ".jpg", quality=90)
    elif kind == "jpeg with colours":
        save_masks(own, lambda m: Image.fromarray(np.dstack([m, m * 0, m * 0])), ".jpeg", quality=95)
    elif kind == "webp":
        save_masks(own, GREY, ".webp", quality=60)
    elif kind == "soft edges":
        save_masks(own, lambda m: Image.fromarray(cv2.GaussianBlur(m, (0, 0), 1.5)), ".png")
    elif kind == "0 to 1":
        save_masks(own, lambda m: Image.fromarray(cv2.GaussianBlur(m / np.float32(255), (0, 0), 1.5)), ".tif")
    else:
        save_masks(own, again, ".png")
    status, said = check(own)
    assert status == 0
    assert "note: " in said
    assert "values from 0 to " in said
    assert "as of a lossy format or soft edges: cut at half of that range" in said
    after = [MVTecDataset(own_folder.prepare(own, tmp_path / "b" / "own"), "own", (48, 48))[i].mask for i in range(3)]
    for old, new in zip(before, after, strict=True):
        assert (old != new).mean() < 0.02
        assert not old.any() or (old & new).sum() / (old | new).sum() > 0.8


def test_labels_of_several_defects_all_count(own: Path, check: Check) -> None:
    for low, high in ((1, 2), (100, 255)):
        for path in masks_of(own):
            pixels = np.zeros((48, 48), np.uint8)
            pixels[5:12, 5:12], pixels[20:30, 20:30] = low, high
            write_image(path, pixels)
        assert f"holds 3 values from 0 to {high}: all above 0 count as anomalous" in check(own)[1]


@pytest.mark.parametrize("kind", ["grey", "1 bit", "0/1 the wrong way round", "16 bit", "colour", "jpeg"])
def test_inverted_masks_are_noted(own: Path, mvtec: Path, check: Check, kind: str) -> None:
    change: dict[str, Callable[[np.ndarray], Image.Image]] = {
        "grey": lambda m: Image.fromarray(255 - m),
        "1 bit": lambda m: Image.fromarray(m == 0),
        "0/1 the wrong way round": lambda m: Image.fromarray((m == 0).astype(np.uint8)),
        "16 bit": lambda m: Image.fromarray((m == 0).astype(np.uint16) * 65535),
        "colour": lambda m: Image.fromarray(np.dstack([255 - m] * 3)),
        "jpeg": lambda m: Image.fromarray(255 - m),
    }
    save_masks(own, change[kind], ".jpg" if kind == "jpeg" else ".png")
    status, said = check(own)
    assert status == 0
    assert "the mask marks " in said
    assert "% of the image: is it inverted?" in said


@pytest.mark.parametrize("colour", [0, 255])
def test_masks_in_the_alpha_channel_are_refused(own: Path, check: Check, colour: int, tmp_path: Path) -> None:
    def in_alpha(mask: np.ndarray) -> Image.Image:
        return Image.fromarray(np.dstack([np.full_like(mask, colour)] * 3 + [mask]))

    save_masks(own, in_alpha, ".png")
    status, said = check(own)
    assert status == 1
    assert "problem: the mask " in said
    assert "is drawn in its alpha channel, which does not count: save it as grey" in said
    items = MVTecDataset(own_folder.prepare(own, tmp_path / "sets" / "own"), "own", (32, 32))
    with pytest.raises(ValueError, match="is drawn in its alpha channel"):
        [items[index] for index in range(len(items))]


def test_other_alpha_channels_of_masks_are_noted(own: Path, check: Check) -> None:
    save_masks(own, lambda m: Image.fromarray(np.dstack([m, m, m, 255 - m // 2])), ".png")
    assert "the mask has an alpha channel, which does not count" in check(own)[1]


def test_masks_of_normal_images_that_mark_something(mvtec: Path, check: Check) -> None:
    for number in range(3):
        write_image(mvtec / "alpha" / "ground_truth" / "good" / f"{number:03}_mask.png", np.zeros((48, 48), np.uint8))
    assert "note: " not in check(mvtec)[1]
    write_image(mvtec / "alpha" / "ground_truth" / "good" / "001_mask.png", np.eye(48, dtype=np.uint8))
    assert "001_mask.png: the mask marks something, but the image counts as normal" in check(mvtec)[1]


@pytest.mark.parametrize(("orientation", "suffix"), [(3, ".jpg"), (6, ".jpg"), (2, ".png"), (3, ".webp"), (8, ".tif")])
def test_turned_photos_with_masks_on_raw_pixels_are_noted(
    mvtec: Path, own: Path, check: Check, caplog: pytest.LogCaptureFixture, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for folder in (own / "anomalous", mvtec / "alpha" / "test" / "large"):
        for path in sorted(folder.iterdir()):
            Image.open(path).save(path.with_suffix(suffix), exif=exif)
            if suffix != ".png":
                path.unlink()
    for folder in (own, mvtec):
        assert f"001{suffix}, 002{suffix}: turned as the camera noted (EXIF orientation)" in check(folder)[1]
    with caplog.at_level(logging.WARNING):
        MVTecDataset(mvtec, "alpha", (32, 32))
    assert any("turned as the camera noted" in message for message in caplog.messages)


def test_turned_photos_whose_masks_fit_are_not(own: Path, check: Check) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for image, mask in zip(sorted((own / "anomalous").iterdir()), masks_of(own), strict=True):
        Image.open(image).crop((0, 0, 48, 30)).save(image, exif=exif)
        pixels = pixels_of(mask)
        pixels[0, 0] = 255
        write_image(mask, np.rot90(pixels[:30], -1))
    assert "turned as" not in check(own)[1]
    for mask in masks_of(own):
        write_image(mask, np.rot90(pixels_of(mask)))
    status, said = check(own)
    assert status == 1
    assert "has 30x48 (an image is turned as its camera noted): save the mask in the size of the image" in said


@pytest.mark.parametrize(("bits", "suffix"), [(10, ".png"), (12, ".tif"), (14, ".png")])
@pytest.mark.parametrize("is_grey", [True, False])
def test_16_bit_files_that_use_little_of_it_are_noted(
    mvtec: Path, own: Path, check: Check, bits: int, suffix: str, is_grey: bool
) -> None:
    for folder in (own / "normal", mvtec / "alpha" / "train" / "good"):
        for path in sorted(folder.iterdir()):
            deep = pixels_of(path).astype(np.uint16) << (bits - 8)
            path.unlink()
            path.with_suffix(suffix).write_bytes(cv2.imencode(suffix, deep[..., 0] if is_grey else deep)[1].tobytes())
    for folder in (own, mvtec):
        assert "16-bit, but at most " in check(folder)[1]


@pytest.mark.parametrize("suffix", [".tif", ".webp", ".png"])
def test_files_of_several_pages_are_refused(mvtec: Path, own: Path, check: Check, suffix: str) -> None:
    pages = [Image.open(path).convert("RGB") for path in sorted((own / "anomalous").iterdir())]
    for folder, root in ((own / "anomalous", own), (mvtec / "alpha" / "train" / "good", mvtec)):
        (folder / "000.png").unlink()
        pages[0].save(folder / f"000{suffix}", save_all=True, append_images=pages[1:])
        status, said = check(root)
        assert status == 1
        assert f"problem: {folder}/000{suffix} holds 3 pages or frames: save each of them as a file" in said
