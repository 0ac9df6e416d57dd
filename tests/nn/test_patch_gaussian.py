import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from anomaly_zoo.nn.patch_gaussian import PatchGaussian, first_views

NUM_IMAGES, NUM_VIEWS = 12, 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def instance() -> Tensor:
    return torch.arange(NUM_IMAGES).repeat_interleave(NUM_VIEWS)


def aligned(seed: int) -> Tensor:
    """Views whose mean depends on the position; every second one is mirrored, so that it is aligned no more."""
    position = 5 * draw(1, 4, 6, 6, seed=100)
    feature = position + draw(NUM_IMAGES * NUM_VIEWS, 4, 6, 6, seed=seed)
    feature[1::2] = feature[1::2].flip(3)
    return feature


def mahalanobis(samples: Tensor, queries: Tensor) -> np.ndarray:
    reference = LedoitWolf().fit(samples.double().numpy())
    distance: np.ndarray = np.sqrt(reference.mahalanobis(queries.double().numpy()))
    return distance


def test_shared_is_the_distance_to_one_gaussian_of_all_patches(instance: Tensor) -> None:
    feature, image = draw(24, 4, 6, 6), draw(2, 4, 6, 6, seed=1)
    gaussian = PatchGaussian("shared")
    gaussian.fit(feature, instance)
    assert not gaussian.is_local
    expected = mahalanobis(feature.movedim(1, 3).reshape(-1, 4), image.movedim(1, 3).reshape(-1, 4))
    np.testing.assert_allclose(gaussian(image).reshape(-1), expected, rtol=1e-4)


def test_local_sees_the_first_views_at_a_position_and_around_it(instance: Tensor) -> None:
    feature, image = aligned(0), draw(2, 4, 6, 6, seed=1)
    gaussian = PatchGaussian("local")
    gaussian.fit(feature, instance)
    assert gaussian.is_local
    distance = gaussian(image)
    assert distance.shape == (2, 6, 6)
    for y, x in ((0, 0), (2, 3), (5, 1)):
        around = [feature[::2, :, min(max(y + i, 0), 5), min(max(x + j, 0), 5)] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        np.testing.assert_allclose(distance[:, y, x], mahalanobis(torch.cat(around), image[:, :, y, x]), rtol=1e-4)


def test_auto_finds_aligned_objects(instance: Tensor) -> None:
    gaussian = PatchGaussian("auto")
    gaussian.fit(aligned(0), instance)
    assert gaussian.is_local
    gaussian.fit(draw(24, 4, 6, 6), instance)
    assert not gaussian.is_local


def test_auto_shares_where_there_is_one_image() -> None:
    gaussian = PatchGaussian("auto")
    gaussian.fit(aligned(0), torch.zeros(24, dtype=torch.long))
    assert not gaussian.is_local


@pytest.mark.parametrize("spatial", ["shared", "local"])
def test_gradients_reach_the_features(spatial: str, instance: Tensor) -> None:
    gaussian = PatchGaussian(spatial)  # type: ignore[arg-type] # one of the two
    feature = aligned(0)
    gaussian.fit(feature, instance)
    probe = feature[:2].clone().requires_grad_()
    gaussian(probe).mean().backward()
    assert probe.grad is not None
    assert probe.grad.isfinite().all()
    assert (probe.grad != 0).any()


def test_first_views() -> None:
    assert first_views(torch.tensor([3, 3, 1, 3, 1])).tolist() == [True, False, True, False, False]
