"""Every method beside the baseline on the same test images: what comparisons are made from."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
from jaxtyping import Bool, Float

from anomaly_zoo.results import ImageScore, Result
from anomaly_zoo.statistics import Spread, mean_placements, spread
from anomaly_zoo.summary import protocols

Matrix = Float[np.ndarray, "a n"]
_PATH, _SCORE = itemgetter("path"), itemgetter("score")


class Images:
    """The test images of a category, in the order in which all scores of it are kept."""

    def __init__(self, images: Sequence[ImageScore]) -> None:
        self.label: Bool[np.ndarray, " images"] = np.array([image["label"] for image in images], dtype=bool)
        self.defects = np.array([image["defect"] for image in images if image["label"]])
        self._paths = list(map(_PATH, images))
        self._keys = [image_key(image) for image in images]

    def scores(self, images: Sequence[ImageScore]) -> Float[np.ndarray, " images"] | None:
        """The scores in this order, None if they are not of the same images; the root of these may differ."""
        if list(map(_PATH, images)) != self._paths:
            named = {image_key(image): image for image in images}
            if len(named) != len(images) or named.keys() != set(self._keys):
                return None
            images = [named[key] for key in self._keys]
        return np.fromiter(map(_SCORE, images), np.float64, len(images))

    @property
    def enough(self) -> bool:
        """Whether there are two of each kind."""
        return 2 <= int(self.label.sum()) <= len(self.label) - 2


@dataclass(frozen=True)
class Scored:
    """The scores of one method in one category, for every seed."""

    images: Images
    scores: dict[int, Float[np.ndarray, " images"]] = field(default_factory=dict)
    _means: dict[tuple[int, ...], Matrix] = field(default_factory=dict)

    def mean(self, seeds: Sequence[int]) -> Matrix:
        """`placements`, averaged over seeds; kept, since the baseline stands beside every method."""
        key = tuple(seeds)
        if key not in self._means:
            self._means[key] = mean_placements(np.stack([self.scores[seed] for seed in seeds]), self.images.label)
        return self._means[key]


@dataclass(frozen=True)
class Pair:
    """A method beside the baseline in one category."""

    method: Scored
    baseline: Scored
    _spreads: dict[tuple[int, ...], Spread] = field(default_factory=dict)

    @property
    def seeds(self) -> set[int]:
        """Those that both have."""
        return self.method.scores.keys() & self.baseline.scores.keys()

    def spread(self, seeds: Sequence[int], defect: str = "") -> Spread | None:
        """Of the means over seeds; if a defect is named, of its images only, None with fewer than two of these."""
        if defect:
            rows = self.method.images.defects == defect
            of_defect = [scored.mean(seeds)[rows] for scored in (self.method, self.baseline)]
            return spread(*of_defect) if rows.sum() >= 2 else None
        key = tuple(seeds)  # kept, since a category counts for itself and in averages
        if key not in self._spreads:
            self._spreads[key] = spread(self.method.mean(seeds), self.baseline.mean(seeds))
        return self._spreads[key]


Cell = tuple[str, str]  # dataset, category
Pairs = dict[tuple[str, int], dict[str, dict[Cell, Pair]]]  # protocol and shots, method, cell


def pair_up(results: Sequence[Result], baseline: str) -> Pairs:
    """All pairs with the same seed, test images and protocol, and with two images of each kind or more."""
    tables: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for run, shown in zip(results, protocols(results, baseline), strict=True):
        tables[json.dumps(shown, sort_keys=True), run.shots].append(run)
    pairs: Pairs = {}
    for table, runs in tables.items():
        scored = score(sorted(runs, key=lambda run: run.method != baseline))
        methods: dict[str, dict[Cell, Pair]] = defaultdict(dict)
        for (method, cell), found in scored.items():
            reference = scored.get((baseline, cell))
            if method != baseline and reference and (pair := Pair(found, reference)).seeds:
                methods[method][cell] = pair
        if methods:
            pairs[table] = methods
    return pairs


def score(runs: Sequence[Result]) -> dict[tuple[str, Cell], Scored]:
    """The scores of every method in every category that has two images of each kind.

    Args:
        runs: of one protocol and number of shots. The first of a category says which images it has; those with other
            images are left out.
    """
    images: dict[Cell, Images] = {}
    found: dict[tuple[str, Cell], Scored] = {}
    for run in runs:
        if run.status != "ok" or not run.images:
            continue
        cell = (run.dataset, run.category)
        if cell not in images:
            images[cell] = Images(run.images)
        here = images[cell]
        if here.enough and (scores := here.scores(run.images)) is not None:
            found.setdefault((run.method, cell), Scored(here)).scores[run.seed] = scores
    return found


def image_key(image: ImageScore) -> str:
    """What stays of an image's path when the dataset is moved: `test/<defect>/<file>`.

    >>> image_key({"path": "/data/mvtec/bottle/test/crack/0.png", "defect": "crack", "label": True, "score": 1.0})
    'test/crack/0.png'
    """
    return "/".join(image["path"].replace("\\", "/").rsplit("/", 3)[-3:])
