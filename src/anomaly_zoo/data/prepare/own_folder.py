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

from anomaly_zoo.data.category import checked, means_normal, name_to_match
from anomaly_zoo.data.image_files import image_files, images_below, subfolders
from anomaly_zoo.data.prepare.tree import Files, is_finished, placed, split_normal, thin_out, write_tree
from anomaly_zoo.data.regions import MASK_FOLDER, POLYGON_FILE

NORMAL, ANOMALOUS, MASKS = "normal", "anomalous", "masks"
DEFECT, UNUSED = "anomalous", "ground_truth/unused"


def is_own_folder(folder: Path) -> bool:
    """Whether a folder is laid out as this module describes."""
    return (folder / NORMAL).is_dir()


def arrange(folder: Path, num_train: int | None = None) -> Files:
    """Where every file goes, `num_train` (by default half) of the normal images to training, by a fixed draw."""
    category = folder.resolve().name
    for sub in subfolders(folder):
        if sub.name.lower() in (NORMAL, ANOMALOUS, MASKS) and sub.name != sub.name.lower():
            raise ValueError(f"{sub} would be passed over: rename it to {sub.name.lower()}")
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
    return files | dict(_masks(folder, category, files)) | dict(_regions(folder, category, files))


def prepare(folder: Path | str, target: Path | str, num_train: int | None = None, max_test: int | None = None) -> Path:
    """Writes the folder as a dataset; FileExistsError if another one, or what the folder held before, is there."""
    folder, target = Path(folder).expanduser(), Path(target).expanduser()
    arranged = arrange(folder, num_train)
    inside = {place.partition("/")[2]: path for place, path in arranged.items() if isinstance(path, Path)}
    checked(folder, folder, inside)
    files = {place: path for place, path in arranged.items() if f"/{UNUSED}/" not in place}
    newest = max(path.stat().st_mtime for path in files.values() if isinstance(path, Path))
    when = datetime.fromtimestamp(newest, timezone.utc).isoformat()
    options = {"title": folder.resolve().name, "num_train": num_train, "max_test": max_test}
    options |= {"num_files": len(files), "newest_file": when}
    if not is_finished(target, options):
        write_tree(target, thin_out(files, max_test), {"source": str(folder.resolve())}, options)
    return target


def _defects(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    flat = image_files(folder / ANOMALOUS)
    if flat:
        yield DEFECT, flat
    for sub in subfolders(folder / ANOMALOUS):
        if flat and sub.name == DEFECT:
            raise ValueError(f"{sub} is named like another folder of the layout: rename it")
        if means_normal(sub.name):
            raise ValueError(f"{sub} would count as anomalous: move its images to {folder / NORMAL}, or rename it")
        yield sub.name, image_files(sub)


def _masks(folder: Path, category: str, files: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """The masks with their places; none, if the folder has none."""
    masks: dict[str, list[Path]] = {}
    for path in images_below(folder / MASKS):
        masks.setdefault(name_to_match(path.relative_to(folder / MASKS)), []).append(path)
    images = {place: image for place, image in files.items() if image.is_relative_to(folder / ANOMALOUS)}
    stems = Counter(name_to_match(Path(image.name)) for image in images.values())
    used: set[Path] = set()
    for place, image in images.items():
        inside, flat = name_to_match(image.relative_to(folder / ANOMALOUS)), name_to_match(Path(image.name))
        names = [inside, flat] if stems[flat] == 1 else [inside]  # a flat one may be that of another defect's image
        found = next((m for m in ([*masks.get(f"{n}_mask", []), *masks.get(n, [])] for n in names) if m), [])
        for number, mask in enumerate(found):  # of two, none is the right one
            end = mask.suffix if number else f"_mask{mask.suffix}"
            yield f"{category}/ground_truth/{place.split('/')[2]}/{image.stem}{end}", mask
        used |= set(found)
    for path in [path for paths in masks.values() for path in paths if path not in used]:
        yield f"{category}/{UNUSED}/{'_'.join(path.relative_to(folder / MASKS).parts)}", path


def _regions(folder: Path, category: str, files: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """The polygon file, and the foreground masks; none, if the folder has neither."""
    if (folder / POLYGON_FILE).is_file():
        yield f"{category}/{POLYGON_FILE}", folder / POLYGON_FILE
    masks: dict[str, Path] = {}
    for path in images_below(folder / MASK_FOLDER):
        masks.setdefault(name_to_match(path.relative_to(folder / MASK_FOLDER)).removesuffix("_mask"), path)
    for place, image in files.items():
        _, split, defect, _ = place.split("/")
        if mask := masks.get(name_to_match(image.relative_to(folder))):
            yield f"{category}/{MASK_FOLDER}/{split}/{defect}/{image.stem}{mask.suffix}", mask
