"""The test split of a category in the MVTec layout: images, defects and ground-truth masks."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from torch.utils.data import Dataset

from anomaly_zoo.data.category import check_mask, checked, files_in, tell
from anomaly_zoo.data.images import is_nearly_black, read_image, read_mask
from anomaly_zoo.data.regions import Regions, paint_outside
from anomaly_zoo.data.samples import Sample
from anomaly_zoo.data.support import category_folder
from anomaly_zoo.data.transforms import Shape, resize, resize_mask

MAX_STRETCH = 1.25  # that is no cause for a note; rounding to multiples of 32 px stretches, too


class MVTecDataset(Dataset[Sample]):
    """The test split of a category, sorted by defect and file name; masks have the shape of the images by default.

    `mask_paths` are None for normal images, and for all where there is no ground truth (`has_masks`).
    """

    def __init__(self, root: Path, category: str, shape: Shape, mask_shape: Shape | None = None) -> None:
        folder = category_folder(root, category)
        self.shape, self.mask_shape = shape, mask_shape or shape
        self._is_noted = False
        found = checked(root, folder, files_in(folder))
        test = {place: path for place, path in found.images.items() if place.startswith("test/")}
        self.paths = list(test.values())
        self.labels = [path.parent.name != "good" for path in self.paths]
        self.defects = list(dict.fromkeys(path.parent.name for path in self.paths if path.parent.name != "good"))
        is_anomalous = dict(zip(test, self.labels, strict=True))
        self.mask_paths = [found.masks.get(place) if is_anomalous[place] else None for place in test]
        self.has_masks = any(path is not None for path in self.mask_paths)
        self.regions = Regions(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path, mask_path = self.paths[index], self.mask_paths[index]
        image, region = read_with_region(path, self.regions)
        self._note_aspect(path, *image.shape[:2])
        mask = np.zeros(self.mask_shape, dtype=bool)
        if mask_path is not None:
            truth = read_mask(mask_path)
            check_mask(truth, mask_path, path, *image.shape[:2])
            mask = resize_mask(truth, self.mask_shape)
        counts = None if region is None else resize_mask(region, self.shape)[None]
        return Sample(resize(image, self.shape)[None], mask[None], self.labels[index], str(path), counts)

    def _note_aspect(self, path: Path, height: int, width: int) -> None:
        """Names the first image whose aspect ratio is not the category's."""
        ratio = (width / height) / (self.mask_shape[1] / self.mask_shape[0])
        if not self._is_noted and not 1 / MAX_STRETCH <= ratio <= MAX_STRETCH:
            self._is_noted = True
            found = f"{path} has {width}x{height} pixels, the support has another aspect ratio"
            tell([f"{found}: such images are stretched"])


def read_with_region(path: Path, regions: Regions) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"] | None]:
    """Reads an image, with everything outside of its region of interest painted over; also returns the region."""
    image = read_image(path)
    if is_nearly_black(path, image):
        tell([f"the 16-bit images in {path.parent} are nearly black when read: multiply them until white is 65535"])
    if not regions.exist:
        return image, None
    region = regions.mask(path, *image.shape[:2])
    return paint_outside(image, region), region
