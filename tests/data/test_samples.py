import numpy as np
import torch

from anomaly_zoo.data.samples import Sample, collate, normal_sample

RNG = np.random.default_rng(0)
VIEWS = RNG.integers(0, 256, (3, 2, 8, 10, 3), dtype=np.uint8)


def test_collate_is_image_major_and_scales_to_one() -> None:
    mask = RNG.random((2, 8, 10)) < 0.5
    items = [normal_sample(list(VIEWS[0]), "a"), Sample(VIEWS[1], mask, True, "b"), normal_sample([VIEWS[2, 0]], "c")]
    batch = collate(items)
    pixels = np.concatenate([VIEWS[0], VIEWS[1], VIEWS[2, :1]])
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(batch.image, expected)
    assert batch.image.is_contiguous()
    assert batch.label.tolist() == [False, False, True, True, False]
    assert batch.path == ["a", "a", "b", "b", "c"]
    assert torch.equal(batch.mask[2:4], torch.from_numpy(mask))
    assert not batch.mask[[0, 1, 4]].any()


def test_the_range_is_zero_to_one() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    batch = collate([normal_sample([image], "a")])
    assert batch.image.dtype == torch.float32
    assert batch.image.min() == 0
    assert batch.image.max() == 1
