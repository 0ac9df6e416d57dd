"""The test split of a category in the MVTec layout: images, defects and ground-truth masks."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from torch.utils.data import Dataset

from anomaly_zoo.data.image_files import image_files, subfolders
from anomaly_zoo.data.images import read_image, read_mask
from anomaly_zoo.data.regions import Regions, paint_outside
from anomaly_zoo.data.samples import Sample
from anomaly_zoo.data.support import category_folder
from anomaly_zoo.data.transforms import Shape, resize, resize_mask


class MVTecDataset(Dataset[Sample]):
    """The test split of a category, sorted by defect and file name.

    Args:
        root: the dataset in the MVTec layout.
        category: the category's folder name.
        shape: of the images.
        mask_shape: of the masks, by default that of the images.

    Attributes:
        paths: every test image.
        labels: True for every anomalous one.
        defects: sorted names of the anomalous test folders that hold images.
        has_masks: whether the category has ground-truth masks.
        mask_paths: the mask of every image; None for normal ones and where there is no ground truth.

    Raises:
        FileNotFoundError: the dataset or the category is missing.
        ValueError: the category has ground truth, but not for every anomalous image.
    """

    def __init__(self, root: Path, category: str, shape: Shape, mask_shape: Shape | None = None) -> None:
        folder = category_folder(root, category)
        self.shape = shape
        self.mask_shape = mask_shape or shape
        by_defect = {path.name: image_files(path) for path in subfolders(folder / "test")}
        self.paths = [path for paths in by_defect.values() for path in paths]
        self.labels = [path.parent.name != "good" for path in self.paths]
        self.defects = [name for name, paths in by_defect.items() if paths and name != "good"]
        truth = folder / "ground_truth"
        # Any mask anywhere makes the category one with ground truth, so that a misnamed folder is an error, not a gap
        self.has_masks = bool(self.defects) and any(image_files(path) for path in subfolders(truth))
        masks = {defect: {path.stem: path for path in image_files(truth / defect)} for defect in self.defects}
        self.mask_paths = [
            _find_mask(path, truth, masks) if label and self.has_masks else None
            for path, label in zip(self.paths, self.labels, strict=True)
        ]
        self.regions = Regions(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path, mask_path = self.paths[index], self.mask_paths[index]
        image, region = read_with_region(path, self.regions)
        mask = np.zeros(self.mask_shape, dtype=bool)
        if mask_path is not None:
            truth = read_mask(mask_path)
            if truth.shape != image.shape[:2]:
                raise ValueError(
                    f"the mask {mask_path} has {truth.shape[1]}x{truth.shape[0]} pixels, but its image {path} has "
                    f"{image.shape[1]}x{image.shape[0]}: save the mask in the size of the image"
                )
            mask = resize_mask(truth, self.mask_shape)
        counts = None if region is None else resize_mask(region, self.shape)[None]
        return Sample(resize(image, self.shape)[None], mask[None], self.labels[index], str(path), counts)


def read_with_region(path: Path, regions: Regions) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | None]:
    """Reads an image, with everything outside of its region of interest painted over; also returns the region."""
    image = read_image(path)
    if not regions.exist:
        return image, None
    region = regions.mask(path, *image.shape[:2])
    return paint_outside(image, region), region


def _find_mask(image_path: Path, truth: Path, masks: dict[str, dict[str, Path]]) -> Path:
    defect, stem = image_path.parent.name, image_path.stem
    mask = masks[defect].get(f"{stem}_mask", masks[defect].get(stem))
    if mask is None:
        raise ValueError(
            f"{image_path} has no mask, though {truth} holds masks: add {truth / defect / f'{stem}_mask.png'} "
            "(or move the ground_truth folder away to score images only)"
        )
    return mask
