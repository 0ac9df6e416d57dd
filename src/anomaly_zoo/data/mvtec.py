"""One category in the MVTec layout as a `LightningDataModule`: a few normal images, and the test split to score.

    <root>/<category>/train/good/*.png              normal training images; the support is drawn from them
    <root>/<category>/test/<good or defect>/*.png   test images
    <root>/<category>/ground_truth/<defect>/*.png   masks, named like their image with or without `_mask`; optional
    <root>/<category>/region.json or region/        where the product is; optional, see `regions`

Image files may end in .png, .jpg, .jpeg, .bmp, .tif, .tiff or .webp.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import lightning.pytorch as L
import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from anomaly_zoo.data.dataset import MVTecDataset, read_with_region
from anomaly_zoo.data.images import image_shape
from anomaly_zoo.data.regions import Regions
from anomaly_zoo.data.samples import Sample, collate, normal_sample
from anomaly_zoo.data.support import derive_seed, support_paths
from anomaly_zoo.data.training_set import TrainingSet
from anomaly_zoo.data.transforms import Shape, category_shape, orientations_of, resize, support_view
from anomaly_zoo.nn.tiling import Tiling
from anomaly_zoo.types import Batch

TRAIN_BATCHES = 1000  # of one epoch, in each process; the budget is counted in steps, so an epoch has no meaning
EVALUATION_SIZE = 256  # maps and masks are compared at as many pixels as a square of this side has
_SMALLEST = {"image_size": 1, "batch_size": 1, "views": 1, "test_batch_size": 1, "num_workers": 0}


class MVTecDataModule(L.LightningDataModule):
    """Support, training batches and test split of one category. Images are resized to one shape, none is cropped.

    Args:
        root: the dataset in the MVTec layout.
        category: the category's folder name.
        dataset: the dataset's name, which enters the draw of the support; by default the folder name of `root`.
        shots: number of support images.
        seed: of the support's draw and of every augmentation, at least 0.
        image_size: side in pixels of a square with as many pixels; of the whole image, also if it is cut into tiles.
        shape: of all images: `keep` the category's aspect ratio, see `transforms.category_shape`, or `square`.
        batch_size: support images per training batch; a batch holds `batch_size * views` images.
        views: augmented views of each image in a training batch.
        test_batch_size: images per test batch.
        num_workers: processes that read and augment images; what they yield does not depend on their number.
        tile_px: side of the tiles into which every image is cut; each is an image to the method. None cuts nothing.
        overlap_px: what neighbouring tiles share at least.
    """

    def __init__(
        self,
        root: Path | str,
        category: str,
        dataset: str | None = None,
        shots: int = 8,
        seed: int = 0,
        image_size: int = 256,
        shape: Literal["keep", "square"] = "keep",
        batch_size: int = 4,
        views: int = 2,
        test_batch_size: int = 16,
        num_workers: int = 0,
        tile_px: int | None = None,
        overlap_px: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root).expanduser()
        self.category = category
        self.dataset = dataset or (self.root.resolve() if self.root.name in ("", "..") else self.root).name
        self.shots, self.seed = shots, seed
        self.image_size, self.shape = image_size, shape
        self.batch_size, self.views = batch_size, views
        self.test_batch_size, self.num_workers = test_batch_size, num_workers
        self.tile_px, self.overlap_px = tile_px, overlap_px
        # What `setup` finds
        self.support_files: list[Path] = []  # in the order of the draw
        self.defects: list[str] = []  # sorted names of the anomalous test folders
        self.has_masks = False  # whether there is ground truth
        self.tiling: Tiling | None = None  # how images are cut, if they are
        self.image_shape: Shape = (0, 0)  # that images are resized to
        self._test_set: MVTecDataset | None = None
        self._not_trained: frozenset[str] = frozenset()
        self._augments = True
        self._support_images: list[UInt8[np.ndarray, "h w 3"]] = []

    def setup(self, stage: str | None = None) -> None:
        """Draws the support, and checks all that can be checked without decoding images. Doing it again is free.

        Only the stages "test" and "predict" need test images. FileNotFoundError if a folder or its images are missing,
        ValueError if an argument is out of range or something else is wrong with the dataset.
        """
        if self._test_set is None:
            for name, least in _SMALLEST.items():
                if getattr(self, name) < least:
                    raise ValueError(f"{name} is {getattr(self, name)}: choose {least} or more")
            if self.overlap_px and self.tile_px is None:
                raise ValueError(f"overlap_px is {self.overlap_px}, but tile_px is not set: set it, or leave both out")
            self.support_files = support_paths(self.root, self.dataset, self.category, self.shots, self.seed)
            shapes = [image_shape(path) for path in self.support_files]
            square = (self.image_size, self.image_size)
            self.image_shape = category_shape(shapes, self.image_size) if self.shape == "keep" else square
            if self.tile_px is not None:
                self.tiling = Tiling(self.image_shape, self.tile_px, self.overlap_px)
            test_set = MVTecDataset(self.root, self.category, self.image_shape, category_shape(shapes, EVALUATION_SIZE))
            self.defects, self.has_masks, self._test_set = test_set.defects, test_set.has_masks, test_set
        if stage in ("test", "predict"):
            self._test_images()

    @property
    def orientations(self) -> list[int]:
        """Orientations that keep the shape of an image, or of a tile; see `transforms.orientations_of`."""
        return orientations_of((1, 1) if self.tiling else self.image_shape)

    def support(
        self, views: int = 1, orientations: Sequence[int] | None = None, max_images: int | None = None
    ) -> Batch:
        """Returns `shots * views` normal images: the views of the first image, or of each of its tiles, then the next.

        The first view is the image as it is (resized), the others are augmented, always in the same way.

        Args:
            views: views per image.
            orientations: of the views, in turn; see `transforms.oriented`. None are the symmetries of the shape.
            max_images: only the first so many images, and of each the tile in the middle; None is all.
        """
        if views < 1:
            raise ValueError(f"views is {views}: choose 1 or more")
        chosen = list(zip(itertools.count(), *self._support()))
        turns = self.orientations[: len(self.orientations) // 2] if orientations is None else orientations
        if max_images is not None:
            num_tiles = len(chosen) // len(self.support_files)
            chosen = chosen[num_tiles // 2 :: num_tiles][:max_images]
        samples = []
        for index, image, path in chosen:
            seeds = [derive_seed(self.seed, 0, index, view) for view in range(views)]
            shown = [support_view(image, view, seed, turns) for view, seed in enumerate(seeds)]
            samples.append(normal_sample(shown, path))
        return collate(samples)

    def train_on_others(self, paths: Sequence[str], augments: bool = True) -> None:
        """Keeps files of the support out of training batches, and says whether these are augmented at all."""
        self._not_trained, self._augments = frozenset(paths), augments

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns the batches of an epoch, image-major: in each process its own, and in every epoch the same."""
        support = zip(*self._support(), strict=True)
        images, paths = zip(*((image, path) for image, path in support if path not in self._not_trained), strict=True)
        num_processes = self.trainer.world_size if self.trainer is not None else 1
        samples = TrainingSet(
            images, paths, self.views, self.batch_size, TRAIN_BATCHES, self.seed, num_processes, self._augments
        )
        # Lightning's own choice of sampler shuffles again, so that a batch could hold an image twice
        return self._loader(samples, self.batch_size, DistributedSampler)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Returns the test split, sorted by defect and file name, every image once over all processes."""
        # Lightning's own choice evens out the processes by repeating images, which falsifies the metrics
        return self._loader(self._test_images(), self.test_batch_size, UnrepeatedDistributedSampler)

    predict_dataloader = test_dataloader

    def _support(self) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[str]]:
        """The resized support images or their tiles, read once, and their files."""
        self.setup()
        corners = self.tiling.corners if self.tiling else [(0, 0)]
        height, width = (self.tiling.tile_px,) * 2 if self.tiling else self.image_shape
        if not self._support_images:
            regions = Regions(self.root / self.category)
            images = [resize(read_with_region(path, regions)[0], self.image_shape) for path in self.support_files]
            cut = (image[top : top + height, left : left + width] for image in images for top, left in corners)
            self._support_images = [np.ascontiguousarray(tile) for tile in cut]
        return self._support_images, [str(path) for path in self.support_files for _ in corners]

    def _test_images(self) -> MVTecDataset:
        self.setup()
        assert self._test_set is not None
        if not self._test_set.paths:
            folder = self.root / self.category / "test"
            hint = f"put them into {folder / 'good'} and {folder / '<defect>'}"
            raise FileNotFoundError(f"{folder} holds no test images: {hint}")
        return self._test_set

    def _loader(
        self, dataset: Dataset[Sample], batch_size: int, distributed_sampler: type[DistributedSampler[Sample]]
    ) -> DataLoader[Sample]:
        trainer, sampler = self.trainer, None
        if trainer is not None and trainer.world_size > 1:
            sampler = distributed_sampler(dataset, trainer.world_size, trainer.global_rank, shuffle=False)
        return DataLoader(
            dataset,
            batch_size=batch_size,  # by keyword, since Lightning builds the loader anew for predicting
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=_one_thread,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )


def _one_thread(worker_id: int) -> None:
    """Keeps a worker to one thread: many workers with a thread per core each get in each other's way."""
    del worker_id
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
