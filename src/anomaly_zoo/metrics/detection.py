"""All metrics of the protocol at once: for a whole test split, and for each of its defects.

The five pixel metrics share one sort of the pixels. A defect's subset is all normal images and the images of that
defect. Metrics that are not defined are left out, with the reason; they are never reported as 0.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from anomaly_zoo.measures import IMAGE_METRICS, PIXEL_METRICS
from anomaly_zoo.metrics.aupro import region_weights
from anomaly_zoo.metrics.ranking import Counts, check_pair, to_array, to_images

NORMAL = -1


class DetectionScores(NamedTuple):
    """How well anomalies were detected."""

    metrics: dict[str, float]  # of the whole test split that are defined; `aupro` has the limit 0.3, `aupro_005` 0.05
    per_defect: dict[str, dict[str, float]]  # the same over all normal images and those of each defect seen
    undefined: dict[str, str]  # for every name missing from `metrics`, why


def detection_metrics(
    anomaly_map: Float[Tensor, "n h w"],
    image_score: Float[Tensor, " n"],
    mask: Bool[Tensor, "n h w"],
    label: Bool[Tensor, " n"],
    defect: Sequence[str],
) -> DetectionScores:
    """Every metric of the protocol, for all images and per defect.

    Pixel metrics need ground truth: they are undefined if every anomalous image has an empty mask. If only some have
    (a small defect can vanish when a mask is resized), all pixels of those images count as normal.

    Scores are finite, without any further range. The mask of a normal image is all False; its defect is ignored.

    Raises:
        ValueError: shapes or types do not fit, a normal image has anomalous pixels, or a score is not finite.

    >>> anomaly_map, label = torch.tensor([[[1.0, 2.0]], [[3.0, 9.0]], [[2.0, 5.0]]]), torch.tensor([False, True, True])
    >>> scores = detection_metrics(anomaly_map, anomaly_map.amax((1, 2)), anomaly_map > 5, label, ["", "hole", "cut"])
    >>> scores.metrics["aupro"], scores.per_defect["cut"]
    (1.0, {'image_auroc': 1.0, 'image_ap': 1.0, 'image_f1_max': 1.0})
    """
    defects = {name for name, anomalous in zip(defect, label.tolist(), strict=False) if anomalous}
    metric = DetectionMetrics(sorted(defects), sync_on_compute=False)
    metric.update(anomaly_map, image_score, mask, label, defect)
    scores: DetectionScores = metric.compute()
    return scores


class DetectionMetrics(Metric):
    """Every metric of the protocol over all images seen, for all images and per defect; see `detection_metrics`.

    `defects` are those that may occur, the same list in all processes of a distributed run, of which each must get at
    least one batch.

    Raises:
        ValueError: a name occurs twice.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    anomaly_map: list[Tensor]
    image_score: list[Tensor]
    mask: list[Tensor]
    defect: list[Tensor]

    def __init__(self, defects: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(defects)) < len(defects):
            raise ValueError(f"defects must be distinct, got {list(defects)}")
        self.defects = tuple(defects)
        for state in ("anomaly_map", "image_score", "mask", "defect"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        anomaly_map: Float[Tensor, "b h w"],
        image_score: Float[Tensor, " b"],
        mask: Bool[Tensor, "b h w"],
        label: Bool[Tensor, " b"],
        defect: Sequence[str],
    ) -> None:
        """Adds a batch; arguments and errors are those of `detection_metrics`, or a defect that is unknown."""
        check_pair(anomaly_map, mask, num_dims=3)
        check_pair(image_score, label, num_dims=1)
        if not len(anomaly_map) == len(image_score) == len(defect):
            counts = f"{len(anomaly_map)} maps, {len(image_score)} scores and {len(defect)} defects"
            raise ValueError(f"needs one map, one score and one defect per image, got {counts}")
        if (mask.flatten(1).any(1) & ~label).any():
            raise ValueError("a normal image must have an all-False mask, got one with anomalous pixels")
        position: dict[str | None, int] = {None: NORMAL, **{name: i for i, name in enumerate(self.defects)}}
        names = [name if anomalous else None for name, anomalous in zip(defect, label.tolist(), strict=True)]
        for name in names:
            if name not in position:
                raise ValueError(f"defect must be one of {list(self.defects)}, got {name!r}")
        self.defect.append(torch.tensor([position[name] for name in names], dtype=torch.int64, device=label.device))
        self.anomaly_map.append(anomaly_map.detach())
        self.image_score.append(image_score.detach())
        self.mask.append(mask)

    def compute(self) -> DetectionScores:
        """The metrics over all images of all processes."""
        images = _Images(
            to_images(self.anomaly_map),
            to_array(dim_zero_cat(self.image_score)),
            to_images(self.mask),
            to_array(dim_zero_cat(self.defect)),
        )
        metrics, undefined = _all_metrics(images)
        per_defect = {}
        for position, name in enumerate(self.defects):
            of_defect = images.defect == position
            if of_defect.any():
                per_defect[name], _ = _all_metrics(images.where(of_defect | (images.defect == NORMAL)))
        return DetectionScores(metrics, per_defect, undefined)


class _Images(NamedTuple):
    """A test split as arrays, one or one element per image; no map or mask is copied to get here."""

    anomaly_map: list[Float[np.ndarray, "_ _"]]
    image_score: Float[np.ndarray, " n"]
    mask: list[Bool[np.ndarray, "_ _"]]
    defect: Int64[np.ndarray, " n"]

    def where(self, chosen: Bool[np.ndarray, " n"]) -> "_Images":
        """The images where ``chosen`` is True."""
        maps, masks = (list(compress(images, chosen)) for images in (self.anomaly_map, self.mask))
        return _Images(maps, self.image_score[chosen], masks, self.defect[chosen])


def _all_metrics(images: _Images) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics that are defined, and for the others why not."""
    metrics: dict[str, float] = {}
    undefined: dict[str, str] = {}
    for names, values in ((IMAGE_METRICS, _image_metrics(images)), (PIXEL_METRICS, _pixel_metrics(images))):
        if isinstance(values, str):
            undefined |= dict.fromkeys(names, values)
        else:
            metrics |= zip(names, values, strict=True)
    return metrics, undefined


def _image_metrics(images: _Images) -> tuple[float, ...] | str:
    """The values of `IMAGE_METRICS`, or why they are undefined."""
    label = images.defect != NORMAL
    if not label.any():
        return "no anomalous image"
    if label.all():
        return "no normal image"
    counts = Counts.of([images.image_score], [label])
    return counts.auroc(), counts.average_precision(), counts.f1_max()


def _pixel_metrics(images: _Images) -> tuple[float, ...] | str:
    """The values of `PIXEL_METRICS`, or why they are undefined."""
    if not (images.defect != NORMAL).any():
        return "no anomalous image"
    if not any(mask.any() for mask in images.mask):
        return "no ground-truth masks"
    if all(mask.all() for mask in images.mask):
        return "no normal pixel"
    counts, weight = Counts.of(images.anomaly_map, images.mask), region_weights(images.mask)
    return (
        counts.auroc(),
        counts.average_precision(),
        counts.f1_max(),
        counts.aupro(weight, fpr_limit=0.3),
        counts.aupro(weight, fpr_limit=0.05),
    )
