"""Every method beside the baseline on the same test images: what comparisons are made from."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from anomaly_zoo.results import ImageScore, Result
from anomaly_zoo.statistics import placements, resample
from anomaly_zoo.summary import protocols

Matrix = Float[np.ndarray, "a n"]


@dataclass(frozen=True)
class Pair:
    """A method beside the baseline in one category: placements of the one less the other's, for every seed."""

    number: int  # of the category, so that different ones are resampled independently
    matrices: dict[int, Matrix]
    defects: list[str]  # of the rows
    drawn: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)

    def mean(self, seeds: Sequence[int], defect: str = "") -> Matrix:
        """The mean over seeds; of one kind of defect only, if it is named."""
        total: Matrix = np.mean([self.matrices[seed] for seed in seeds], axis=0)
        return total if not defect else total[np.array(self.defects) == defect]

    def resample(self, seeds: Sequence[int]) -> np.ndarray:
        """Kept, since a category counts for itself and in averages."""
        if tuple(seeds) not in self.drawn:
            self.drawn[tuple(seeds)] = resample(self.mean(seeds), seed=self.number)
        return self.drawn[tuple(seeds)]


Cell = tuple[str, str]  # dataset, category
Pairs = dict[tuple[str, int], dict[str, dict[Cell, Pair]]]  # protocol and shots, method, cell


def pair_up(results: Sequence[Result], baseline: str) -> Pairs:
    """All pairs with the same seed, test images and protocol, and with two images of each kind or more."""
    references: dict[tuple[tuple[str, int], Cell, int], tuple[list[ImageScore], Matrix]] = {}
    runs = [
        ((json.dumps(shown, sort_keys=True), run.shots), (run.dataset, run.category), run)
        for run, shown in zip(results, protocols(results, baseline), strict=True)
        if run.status == "ok" and run.images
    ]
    for table, cell, run in runs:
        if run.method == baseline:
            references[table, cell, run.seed] = (run.images, placements_of(run.images, run.images))
    numbers = {cell: number for number, cell in enumerate(sorted({cell for _, cell, _ in runs}))}
    pairs: Pairs = defaultdict(lambda: defaultdict(dict))
    for table, cell, run in runs:
        reference = references.get((table, cell, run.seed))
        if run.method == baseline or reference is None or (images := _aligned(run.images, reference[0])) is None:
            continue
        matrix = placements_of(images, reference[0]) - reference[1]
        if min(matrix.shape) < 2:
            continue
        defects = [image["defect"] for image in reference[0] if image["label"]]
        pair = pairs[table][run.method].setdefault(cell, Pair(numbers[cell], {}, defects))
        pair.matrices[run.seed] = matrix
    return pairs


def placements_of(images: Sequence[ImageScore], labelled: Sequence[ImageScore]) -> Matrix:
    """`placements` of the scores of `images`, with the labels of `labelled`, which are the same images in order."""
    scores = np.array([image["score"] for image in images], dtype=np.float64)
    label = np.array([image["label"] for image in labelled], dtype=bool)
    return placements(scores[~label], scores[label]).astype(np.float32)


def _aligned(images: list[ImageScore], reference: list[ImageScore]) -> list[ImageScore] | None:
    """The images in the order of the reference's, None if they are not the same ones; their root may differ."""
    if [image["path"] for image in images] == [image["path"] for image in reference]:
        return images
    named = {image_key(image): image for image in images}
    wanted = [image_key(image) for image in reference]
    if len(named) != len(images) or named.keys() != set(wanted):
        return None
    return [named[key] for key in wanted]


def image_key(image: ImageScore) -> str:
    """What stays of an image's path when the dataset is moved: `test/<defect>/<file>`.

    >>> image_key({"path": "/data/mvtec/bottle/test/crack/0.png", "defect": "crack", "label": True, "score": 1.0})
    'test/crack/0.png'
    """
    return "/".join(image["path"].replace("\\", "/").rsplit("/", 3)[-3:])
