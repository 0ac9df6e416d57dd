"""The user's own folder of one product, into the MVTec layout.

<folder>/normal/*.jpg                     normal images
<folder>/anomalous/*.jpg                  anomalous images, or
<folder>/anomalous/<defect>/*.jpg         the same by defect; optional altogether
<folder>/masks/[<defect>/]*.png           masks named like their image, with or without `_mask`; optional
<folder>/region.json or region/...        the region of interest, see `regions`; optional
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from anomaly_zoo.data.image_files import image_files, is_image_file, subfolders
from anomaly_zoo.data.prepare.places import placed, split_normal
from anomaly_zoo.data.prepare.tree import Files, is_finished, thin_out, write_tree
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE

NORMAL, ANOMALOUS, MASKS = "normal", "anomalous", "masks"
DEFECT = "anomalous"


def is_own_folder(folder: Path) -> bool:
    """Whether a folder is laid out as this module describes."""
    return (folder / NORMAL).is_dir()


def arrange(folder: Path, num_train: int | None = None, complete: bool = True) -> Files:
    """Where every file goes; the category is named like the folder.

    Args:
        folder: see the module.
        num_train: normal images for training, by a fixed draw; the others are for testing. By default one half.
        complete: whether every image must have its mask and region, where there are any; otherwise gaps are left, and
            masks that belong to no image come along.

    Raises:
        FileNotFoundError: there are no normal images.
        ValueError: `num_train` is out of range, or only some of the anomalous images have a mask.
    """
    category = folder.resolve().name
    normal = image_files(folder / NORMAL)
    if not normal:
        deeper = [sub for sub in subfolders(folder / NORMAL) if image_files(sub)]
        hint = f"move those in {deeper[0]} up" if deeper else "put the normal ones there (png, jpg, bmp, tif, webp)"
        raise FileNotFoundError(f"{folder / NORMAL} holds no images: {hint}")
    if num_train is not None and not 1 <= num_train <= len(normal):
        raise ValueError(f"num_train is {num_train}: choose 1 to {len(normal)}, the number of normal images")
    files = dict(split_normal("own", category, normal, num_train))
    for defect, images in _defects(folder):
        files.update(placed(f"{category}/test/{defect}", images))
    files.update(_masks(folder, category, files, complete))
    files.update(_regions(folder, category, files, complete))
    return files


def prepare(folder: Path | str, target: Path | str, num_train: int | None = None, max_test: int | None = None) -> Path:
    """Writes the folder as a dataset with one category; does nothing if it is there and the folder has not changed.

    For `num_train` see `arrange`, for `max_test` see `thin_out`.

    Raises:
        FileExistsError: `target` holds something else, or what the folder held before; see also `arrange`.
    """
    folder, target = Path(folder).expanduser(), Path(target).expanduser()
    files = arrange(folder, num_train)
    newest = max(path.stat().st_mtime for path in files.values() if isinstance(path, Path))
    options = {
        "title": folder.resolve().name,
        "num_train": num_train,
        "max_test": max_test,
        "num_files": len(files),
        "newest_file": datetime.fromtimestamp(newest, timezone.utc).isoformat(),
    }
    if not is_finished(target, options):
        write_tree(target, thin_out(files, max_test), {"source": str(folder.resolve())}, options)
    return target


def _defects(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    flat = image_files(folder / ANOMALOUS)
    if flat:
        yield DEFECT, flat
    for sub in subfolders(folder / ANOMALOUS):
        if sub.name == "good" or (flat and sub.name == DEFECT):
            raise ValueError(f"{sub} is named like another folder of the layout: rename it")
        yield sub.name, image_files(sub)


def _masks(folder: Path, category: str, files: dict[str, Path], complete: bool) -> Iterator[tuple[str, Path]]:
    """The masks with their places; none, if the folder has none."""
    paths = [path for path in sorted((folder / MASKS).rglob("*")) if is_image_file(path)]
    masks = {path.relative_to(folder / MASKS).with_name(path.stem.removesuffix("_mask")): path for path in paths}
    images = {place: image for place, image in files.items() if image.is_relative_to(folder / ANOMALOUS)}
    stems = Counter(image.stem for image in images.values())
    unused = set(masks)
    for place, image in images.items() if masks else ():
        defect = place.split("/")[2]
        name = image.relative_to(folder / ANOMALOUS).with_suffix("")
        if name not in masks and stems[image.stem] == 1:  # else it may be the mask of another defect's image
            name = Path(image.stem)
        mask = masks.get(name)
        unused.discard(name)
        if mask is None and not complete:
            continue
        if mask is None:
            name = image.relative_to(folder / ANOMALOUS).with_suffix("")
            raise ValueError(
                f"{image} has no mask, though {folder / MASKS} holds some: add {folder / MASKS / f'{name}.png'} "
                f"(or move {folder / MASKS} away to score images only)"
            )
        yield f"{category}/ground_truth/{defect}/{image.stem}_mask{mask.suffix}", mask
    for name in sorted(unused) if not complete else ():
        yield f"{category}/ground_truth/unused/{name.as_posix()}{masks[name].suffix}", masks[name]


def _regions(folder: Path, category: str, files: dict[str, Path], complete: bool) -> Iterator[tuple[str, Path]]:
    """The polygon file, or the foreground masks; none, if the folder has neither."""
    if (folder / POLYGON_FILE).is_file():
        yield f"{category}/{POLYGON_FILE}", folder / POLYGON_FILE
    if not (folder / MASK_FOLDER).is_dir():
        return
    for place, image in list(files.items()):
        _, split, defect, _ = place.split("/")
        if split == "ground_truth":
            continue
        beside = folder / MASK_FOLDER / image.parent.relative_to(folder)
        masks = [path for path in image_files(beside) if path.stem.removesuffix("_mask") == image.stem]
        if not masks and not complete:
            continue
        if not masks:
            raise ValueError(
                f"{image} has no region: add {beside / f'{image.stem}.png'}, or move {folder / MASK_FOLDER} away"
            )
        yield f"{category}/{MASK_FOLDER}/{split}/{defect}/{image.stem}{masks[0].suffix}", masks[0]
