from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from anomaly_zoo.metrics import DetectionMetrics, aupro, auroc, detection_metrics
from tests.metrics.test_ranking import average_precision, f1_max

NAMES = ["image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_005"]
IMAGE_NAMES, PIXEL_NAMES = NAMES[:3], NAMES[3:]


class Images(NamedTuple):
    """The arguments of `detection_metrics`."""

    anomaly_map: Tensor
    image_score: Tensor
    mask: Tensor
    label: Tensor
    defect: list[str]

    def where(self, *defects: str) -> "Images":
        chosen = torch.tensor([name in defects for name in self.defect])
        return self.at([int(i) for i in chosen.nonzero()])

    def at(self, chosen: list[int]) -> "Images":
        tensors = (self.anomaly_map[chosen], self.image_score[chosen], self.mask[chosen], self.label[chosen])
        return Images(*tensors, [self.defect[i] for i in chosen])


def random_images(num_images: int = 12, size_px: int = 16) -> Images:
    """Normal images and two defects in turn, with scores near 60 and some ties."""
    generator = torch.Generator().manual_seed(0)
    defect = [("good", "hole", "scratch")[i % 3] for i in range(num_images)]
    label = torch.tensor([name != "good" for name in defect])
    mask = torch.zeros(num_images, size_px, size_px, dtype=torch.bool)
    mask[:, 2:5, 3:9] = True
    mask[::2, 9:, 10:12] = True
    mask &= label[:, None, None]
    anomaly_map = 60 + torch.randn(mask.shape, generator=generator) + mask
    anomaly_map = (4 * anomaly_map).round() / 4
    return Images(anomaly_map, anomaly_map.amax((1, 2)), mask, label, defect)


def expected_metrics(images: Images) -> dict[str, float]:
    image, pixel = (images.image_score, images.label), (images.anomaly_map.flatten(), images.mask.flatten())
    maps = (images.anomaly_map, images.mask)
    values = [
        *(auroc(*image), average_precision(*image), f1_max(*image)),
        *(auroc(*pixel), average_precision(*pixel), f1_max(*pixel), aupro(*maps, 0.3), aupro(*maps, 0.05)),
    ]
    return dict(zip(NAMES, [value.item() for value in values], strict=True))


def test_equals_each_metric_alone() -> None:
    images = random_images()
    scores = detection_metrics(*images)
    assert list(scores.metrics) == NAMES
    assert scores.metrics == expected_metrics(images)
    assert scores.undefined == {}
    assert scores.per_defect == {
        "hole": expected_metrics(images.where("good", "hole")),
        "scratch": expected_metrics(images.where("good", "scratch")),
    }


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_metric_over_batches_equals_function(batch_size: int) -> None:
    images = random_images()
    metric = DetectionMetrics(defects=["scratch", "never seen", "hole"])
    for start in range(0, 12, batch_size):
        metric.update(*images.at(list(range(start, min(start + batch_size, 12)))))
    assert metric.compute() == detection_metrics(*images)


def test_reset_forgets() -> None:
    images = random_images()
    metric = DetectionMetrics(defects=["hole", "scratch"])
    metric.update(*images)
    metric.compute()
    metric.reset()
    metric.update(*images.where("good", "hole"))
    assert metric.compute() == detection_metrics(*images.where("good", "hole"))


def test_image_order_does_not_count() -> None:
    images = random_images()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled, scores = detection_metrics(*images.at(order)), detection_metrics(*images)
    assert shuffled.metrics == pytest.approx(scores.metrics, abs=1e-12)
    assert shuffled.per_defect["hole"] == pytest.approx(scores.per_defect["hole"], abs=1e-12)


def test_name_of_a_normal_image_is_ignored() -> None:
    images = random_images()
    renamed = images._replace(defect=["hole" if name == "good" else name for name in images.defect])
    assert detection_metrics(*renamed) == detection_metrics(*images)


def test_only_normal_images() -> None:
    scores = detection_metrics(*random_images().where("good"))
    assert scores.metrics == {}
    assert scores.per_defect == {}
    assert scores.undefined == dict.fromkeys(NAMES, "no anomalous image")


def test_only_anomalous_images() -> None:
    images = random_images().where("hole")
    pixel, maps = (images.anomaly_map.flatten(), images.mask.flatten()), (images.anomaly_map, images.mask)
    scores = detection_metrics(*images)
    assert list(scores.metrics) == PIXEL_NAMES
    assert scores.metrics["pixel_auroc"] == auroc(*pixel).item()
    assert scores.metrics["aupro"] == aupro(*maps).item()
    assert scores.per_defect == {"hole": scores.metrics}
    assert scores.undefined == dict.fromkeys(IMAGE_NAMES, "no normal image")


def test_no_masks() -> None:
    images = random_images()
    scores = detection_metrics(*images._replace(mask=torch.zeros_like(images.mask)))
    expected = expected_metrics(images)
    assert scores.metrics == {name: expected[name] for name in IMAGE_NAMES}
    assert scores.undefined == dict.fromkeys(PIXEL_NAMES, "no ground-truth masks")
    assert list(scores.per_defect["hole"]) == IMAGE_NAMES


def test_some_masks_vanished() -> None:
    images = random_images()
    images.mask[1] = False
    assert images.defect[1] == "hole"
    scores = detection_metrics(*images)
    assert scores.metrics == expected_metrics(images)
    assert scores.undefined == {}


def test_all_masks_of_one_defect_vanished() -> None:
    images = random_images()
    images.mask[1::3] = False
    scores = detection_metrics(*images)
    assert scores.metrics == expected_metrics(images)
    assert list(scores.per_defect["hole"]) == IMAGE_NAMES
    assert list(scores.per_defect["scratch"]) == NAMES


def test_no_normal_pixel() -> None:
    images = random_images().where("hole")
    scores = detection_metrics(*images._replace(mask=torch.ones_like(images.mask)))
    assert scores.metrics == {}
    assert [scores.undefined[name] for name in PIXEL_NAMES] == ["no normal pixel"] * 5


@pytest.mark.parametrize("field", ["anomaly_map", "image_score"])
def test_non_finite_score_raises(field: str) -> None:
    images = random_images()
    getattr(images, field)[2] = float("nan")
    with pytest.raises(ValueError, match="finite, got nan"):
        detection_metrics(*images)


def test_anomalous_pixels_in_a_normal_image_raise() -> None:
    images = random_images()
    images.mask[0, 0, 0] = True
    with pytest.raises(ValueError, match="normal image must have an all-False mask"):
        detection_metrics(*images)
    with pytest.raises(ValueError, match="normal image must have an all-False mask"):
        DetectionMetrics(defects=["hole", "scratch"]).update(*images)


def test_unknown_defect_raises() -> None:
    metric = DetectionMetrics(defects=["hole"])
    with pytest.raises(ValueError, match=r"one of \['hole'\], got 'scratch'"):
        metric.update(*random_images())
    assert metric.anomaly_map == []


def test_repeated_defect_raises() -> None:
    with pytest.raises(ValueError, match=r"distinct, got \['hole', 'hole'\]"):
        DetectionMetrics(defects=["hole", "hole"])


def test_compute_before_update_raises() -> None:
    with (
        pytest.warns(UserWarning, match="called before the ``update`` method"),
        pytest.raises(ValueError, match="No samples"),
    ):
        DetectionMetrics(defects=[]).compute()


@pytest.mark.usefixtures("no_type_hook")
def test_wrong_input_raises() -> None:
    images = random_images()
    with pytest.raises(ValueError, match="got 12 maps, 12 scores and 11 defects"):
        detection_metrics(*images._replace(defect=images.defect[:-1]))
    with pytest.raises(ValueError, match="got 11 maps, 12 scores and 12 defects"):
        detection_metrics(*images._replace(anomaly_map=images.anomaly_map[:-1], mask=images.mask[:-1]))
    with pytest.raises(ValueError, match=r"3 dimension.*got \(12, 16\)"):
        detection_metrics(*images._replace(anomaly_map=images.anomaly_map[..., 0], mask=images.mask[..., 0]))
    with pytest.raises(ValueError, match=r"bool, got torch\.int64"):
        detection_metrics(*images._replace(label=images.label.long()))


def test_memory(peak_bytes: Callable[[Callable[[], object]], int]) -> None:
    images = random_images(num_images=24, size_px=256)
    images.mask[images.label, 50:118, 50:118] = True
    metric = DetectionMetrics(defects=["hole", "scratch"])
    for start in range(0, 24, 8):
        metric.update(*images.at(list(range(start, start + 8))))
    assert peak_bytes(lambda: detection_metrics(*images)) <= 16 * images.mask.numel()
    assert peak_bytes(metric.compute) <= 16 * images.mask.numel()
