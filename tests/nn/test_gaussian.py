from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.covariance import ledoit_wolf as reference_ledoit_wolf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from anomaly_zoo.nn.gaussian import MIN_SHRINKAGE, Gaussian, ledoit_wolf, squared_mahalanobis

all_sizes = pytest.mark.parametrize(("num_vectors", "length"), [(900, 9), (50, 50), (8, 40), (3, 99), (5, 2), (40, 1)])


def correlated(num_vectors: int, length: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Vectors with correlated entries of very different variances, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(length, length, generator=generator) * torch.logspace(-1, 1, length)
    return (torch.randn(num_vectors, length, generator=generator) @ mixing + 3.0).to(dtype)


def fitted(features: Tensor) -> Gaussian:
    module = Gaussian().to(features.dtype)
    module.fit(features)
    return module


def orthogonal(length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation: Tensor = torch.linalg.qr(torch.randn(length, length, generator=generator, dtype=torch.float64))[0]
    return rotation


@all_sizes
def test_covariance_equals_scikit_learn(num_vectors: int, length: int) -> None:
    features = correlated(num_vectors, length)
    covariance, shrinkage = ledoit_wolf(features)
    expected, expected_shrinkage = reference_ledoit_wolf(features.double().numpy())
    np.testing.assert_allclose(covariance, expected, rtol=1e-10, atol=1e-10 * expected.max())
    assert shrinkage.item() == pytest.approx(max(expected_shrinkage, MIN_SHRINKAGE), rel=1e-9)


@pytest.mark.parametrize(
    "features", [correlated(30, 4), correlated(6, 20), torch.tensor([[0.0, 0], [2, 0], [0, 1], [2, 3]])]
)
def test_shrinkage_follows_its_definition(features: Tensor) -> None:
    x, (num_vectors, length) = features.double().numpy(), features.shape
    x = x - x.mean(axis=0)
    sample = sum(np.outer(row, row) for row in x) / num_vectors
    target = np.trace(sample) / length * np.eye(length)
    error = sum(np.square(np.outer(row, row) - sample).sum() for row in x) / num_vectors**2
    shrinkage = min(1.0, error / np.square(sample - target).sum())
    ours, our_shrinkage = ledoit_wolf(torch.from_numpy(x))
    assert our_shrinkage.item() == pytest.approx(shrinkage, rel=1e-9)
    np.testing.assert_allclose(ours, (1 - shrinkage) * sample + shrinkage * target, rtol=1e-9, atol=1e-9)


def test_two_vectors_get_what_scikit_learn_leaves_singular() -> None:
    features = correlated(2, 6)
    assert np.linalg.matrix_rank(reference_ledoit_wolf(features.double().numpy())[0]) == 1
    covariance, shrinkage = ledoit_wolf(features)
    assert shrinkage.item() == MIN_SHRINKAGE
    smallest = MIN_SHRINKAGE * covariance.trace() / 6
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance)[:-1], smallest.expand(5), rtol=1e-6, atol=0)
    assert fitted(features)(correlated(20, 6, seed=1)).isfinite().all()


@pytest.mark.parametrize("num_vectors", [1, 3, 7])
@pytest.mark.parametrize("value", [0.0, 0.3, 1e4])
def test_no_spread_means_squared_euclidean_distance(num_vectors: int, value: float) -> None:
    features = torch.full((num_vectors, 4), value)
    features[0] *= 1 + torch.finfo(torch.float32).eps  # rounding is no spread
    covariance, shrinkage = ledoit_wolf(features)
    assert torch.equal(covariance, torch.eye(4, dtype=torch.float64))
    assert shrinkage.item() == 1
    others = value + torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fitted(features)(others), (others - features.mean(dim=0)).square().sum(dim=1))


def test_the_identity_gives_the_squared_euclidean_distance_to_the_mean() -> None:
    features, others = (correlated(9, 4, seed) for seed in (0, 1))
    module = Gaussian(identity=True)
    module.fit(features)
    expected = (others.double() - features.double().mean(dim=0)).square().sum(dim=-1).float()
    torch.testing.assert_close(module(others), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_and_constant_entries(dtype: torch.dtype) -> None:
    features = correlated(10, 6).to(dtype)
    features[:, 2] = 0
    module = Gaussian()
    module.fit(features)
    distance = module(correlated(10, 6, seed=1).to(dtype))
    assert distance.dtype == module.cholesky.dtype == torch.float32
    assert distance.isfinite().all()


@all_sizes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_equals_scikit_learn(num_vectors: int, length: int, dtype: torch.dtype) -> None:
    features = correlated(num_vectors, length)
    others = torch.cat([features, correlated(50, length, seed=1), torch.full((1, length), -40.0)])
    expected = LedoitWolf().fit(features.double().numpy()).mahalanobis(others.double().numpy())
    distance = fitted(features.to(dtype))(others.to(dtype))
    assert distance.dtype == dtype
    np.testing.assert_allclose(distance, expected, rtol=1e-5, atol=1e-6)


@given(seed=st.integers(0, 1000), num_vectors=st.integers(2, 30), scale=st.sampled_from([1e-3, 1.0, 200.0]))
@settings(deadline=None, max_examples=40)
def test_motion_and_scale_change_no_distance(seed: int, num_vectors: int, scale: float) -> None:
    features, others = (correlated(n, 5, seed + n, torch.float64) for n in (num_vectors, 4))
    rotation = scale * orthogonal(5, seed)
    moved, moved_others = (x @ rotation + 7.0 * scale for x in (features, others))
    torch.testing.assert_close(fitted(moved)(moved_others), fitted(features)(others), rtol=1e-6, atol=0)


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_affine_maps_change_no_distance_without_shrinkage(seed: int) -> None:
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixing = orthogonal(4, seed) * torch.tensor([0.1, 1.0, 3.0, 9.0]) @ orthogonal(4, seed + 1)

    def distance(x: Tensor) -> Tensor:
        return squared_mahalanobis(x, x.mean(dim=0), torch.linalg.cholesky(torch.cov(x.T, correction=0)))

    torch.testing.assert_close(distance(features @ mixing + 2.0), distance(features), rtol=1e-6, atol=0)
    assert distance(features).mean().item() == pytest.approx(4)


@given(seed=st.integers(0, 1000), num_vectors=st.integers(1, 12), length=st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_covariance_is_positive_definite_and_keeps_the_trace(seed: int, num_vectors: int, length: int) -> None:
    features = correlated(num_vectors, length, seed, torch.float64)
    covariance, shrinkage = ledoit_wolf(features)
    torch.testing.assert_close(covariance, covariance.mT)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert MIN_SHRINKAGE <= shrinkage.item() <= 1
    if num_vectors > 1:
        assert covariance.trace().item() == pytest.approx(features.var(dim=0, correction=0).sum().item())
    torch.testing.assert_close(ledoit_wolf(features.flip(0))[0], covariance)


def test_gradient() -> None:
    features = correlated(6, 4, dtype=torch.float64)
    module = fitted(features)
    assert torch.autograd.gradcheck(module, (features[:2].clone().requires_grad_(),))
    at_mean = module.mean[None].clone().requires_grad_()
    assert not torch.autograd.grad(module(at_mean).sum(), at_mean)[0].any()


def test_fit_needs_no_gradient_and_leaves_features_alone() -> None:
    features = correlated(10, 4, dtype=torch.float64).requires_grad_()
    assert not any(buffer.requires_grad for buffer in fitted(features).buffers())
    assert torch.equal(features, correlated(10, 4, dtype=torch.float64))


def test_state_is_in_buffers() -> None:
    module, features = Gaussian(), correlated(5, 4, seed=1)
    assert {name: buffer.numel() for name, buffer in module.named_buffers()} == {"mean": 0, "cholesky": 0}
    module.fit(correlated(8, 5))
    module.fit(correlated(10, 4))  # replaces the first
    loaded = Gaussian()
    for name, buffer in loaded.named_buffers():  # as AnomalyModule.on_load_checkpoint does
        buffer.resize_(module.state_dict()[name].shape)
    loaded.load_state_dict(module.state_dict())
    assert torch.equal(loaded(features), module(features))


def test_distance_does_not_depend_on_the_other_vectors() -> None:
    features = correlated(20, 6)
    module = fitted(features)
    torch.testing.assert_close(module(features)[3:5], module(features[3:5]), rtol=1e-6, atol=0)
    assert module(features[:0]).shape == (0,)


def test_fit_comes_first_and_needs_features() -> None:
    with pytest.raises(RuntimeError, match="not fitted"):
        Gaussian()(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one vector"):
        Gaussian().fit(torch.empty(0, 4))


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (2, 1)])
def test_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has \(n, 5\)"):
        fitted(correlated(8, 5))(torch.zeros(shape))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_features_must_be_finite(bad: float) -> None:
    module, features = fitted(correlated(8, 5)), correlated(8, 5)
    features[1, 2] = bad
    for call in (module, module.fit):
        with pytest.raises(ValueError, match="1 values that are not finite"):
            call(features)
    assert torch.equal(module.mean, fitted(correlated(8, 5)).mean)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else [result]
        self.numel = max(self.numel, *(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor)), 0)
        return result


@pytest.mark.parametrize(("num_vectors", "length"), [(500, 20), (20, 500)])
def test_memory_of_the_covariance(num_vectors: int, length: int) -> None:
    with _Largest() as largest:  # type: ignore[no-untyped-call]
        ledoit_wolf(correlated(num_vectors, length))
    assert largest.numel == length * max(num_vectors, length)


def test_exports() -> None:
    module = fitted(correlated(8, 5)).eval()
    features = correlated(3, 5, seed=1)
    exported = torch.export.export(module, (features,)).module()
    assert torch.equal(exported(features), module(features))
