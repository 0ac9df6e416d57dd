import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anomaly_zoo.nn.contrastive import Projector, cross_instance_loss, infonce_loss, negative_pair_loss, simsiam_loss

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {
    "simsiam": lambda a, b: simsiam_loss(a, b, b, a),
    "infonce": infonce_loss,
    "cross_instance": lambda a, b: cross_instance_loss(a, b, torch.arange(len(a)) // 2),
    "negative_pair": lambda a, b: negative_pair_loss(a, b, margin=-0.9),
}
all_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def embeddings(num_rows: int, length: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_rows, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(a: Tensor, b: Tensor) -> float:
    x, y = a.numpy(), b.numpy()
    return float(x @ y / math.sqrt(x @ x) / math.sqrt(y @ y))


@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_simsiam_equals_a_loop(num_rows: int) -> None:
    p1, p2, z1, z2 = (embeddings(num_rows, seed=seed) for seed in range(4))
    total = 0.0
    for i in range(num_rows):
        total -= 0.5 * cosine(p1[i], z2[i]) + 0.5 * cosine(p2[i], z1[i])
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(total / num_rows, abs=1e-12)


@pytest.mark.parametrize("num_rows", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0])
def test_infonce_equals_a_double_loop(num_rows: int, temperature: float) -> None:
    z1, z2 = embeddings(num_rows), embeddings(num_rows, seed=1)
    views = [*z1, *z2]
    total = 0.0
    for i, view in enumerate(views):
        positive = math.exp(cosine(view, views[(i + num_rows) % len(views)]) / temperature)
        everything = sum(math.exp(cosine(view, other) / temperature) for j, other in enumerate(views) if j != i)
        total -= math.log(positive / everything)
    expected = total / len(views)
    assert infonce_loss(z1, z2, temperature).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("instance", [[0, 1], [0, 0, 1], [4, -2, 4, 9, 9, 9, -2], list(range(6))])
def test_cross_instance_equals_a_double_loop(instance: list[int]) -> None:
    z1, z2 = embeddings(len(instance)), embeddings(len(instance), seed=1)
    similarities = [
        cosine(z1[i], z2[j]) for i in range(len(instance)) for j in range(len(instance)) if instance[i] != instance[j]
    ]
    ours = cross_instance_loss(z1, z2, torch.tensor(instance)).item()
    assert ours == pytest.approx(-float(np.mean(similarities)), abs=1e-12)


@pytest.mark.parametrize("margin", [-1.0, 0.0, 0.3])
@pytest.mark.parametrize("num_negatives", [1, 5])
def test_negative_pair_equals_a_double_loop(margin: float, num_negatives: int) -> None:
    z, z_negative = embeddings(4), embeddings(num_negatives, seed=1)
    total = 0.0
    for row in z:
        for negative in z_negative:
            total += max(0.0, cosine(row, negative) - margin)
    expected = total / (4 * num_negatives)
    assert negative_pair_loss(z, z_negative, margin).item() == pytest.approx(expected, abs=1e-12)


@all_losses
@given(seed=st.integers(0, 1000), num_rows=st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_scale_and_rotation_change_nothing(loss: Loss, seed: int, num_rows: int) -> None:
    a, b = embeddings(num_rows, seed=seed), embeddings(num_rows, seed=seed + 1)
    scale = torch.logspace(-2, 3, num_rows, dtype=torch.float64)[:, None]
    rotation = torch.linalg.qr(embeddings(6, seed=seed)).Q
    torch.testing.assert_close(loss(scale * a, b / scale), loss(a, b))
    torch.testing.assert_close(loss(a @ rotation, b @ rotation), loss(a, b))


@all_losses
@given(seed=st.integers(0, 1000), num_rows=st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_views_may_be_swapped(loss: Loss, seed: int, num_rows: int) -> None:
    a, b = embeddings(num_rows, seed=seed), embeddings(num_rows, seed=seed + 1)
    torch.testing.assert_close(loss(b, a), loss(a, b))


@given(seed=st.integers(0, 1000), num_rows=st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_order_of_images_does_not_count(seed: int, num_rows: int) -> None:
    a, b = embeddings(num_rows, seed=seed), embeddings(num_rows, seed=seed + 1)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    instance = torch.arange(num_rows) // 2
    torch.testing.assert_close(infonce_loss(a[order], b[order]), infonce_loss(a, b))
    torch.testing.assert_close(simsiam_loss(a[order], b[order], b[order], a[order]), simsiam_loss(a, b, b, a))
    renamed = 100 - 3 * instance[order]
    torch.testing.assert_close(cross_instance_loss(a[order], b[order], renamed), cross_instance_loss(a, b, instance))
    torch.testing.assert_close(negative_pair_loss(a[order], b), negative_pair_loss(a, b))


@given(seed=st.integers(0, 1000), num_rows=st.integers(2, 9), length=st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_range(seed: int, num_rows: int, length: int) -> None:
    a, b = embeddings(num_rows, length, seed), embeddings(num_rows, length, seed + 1)
    slack = 1e-12
    assert abs(simsiam_loss(a, b, b, a).item()) <= 1 + slack
    assert abs(cross_instance_loss(a, b, torch.arange(num_rows)).item()) <= 1 + slack
    assert 0 <= negative_pair_loss(a, b, margin=0.25).item() <= 0.75 + slack
    assert infonce_loss(a, b).item() > 0


def test_equal_embeddings() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert simsiam_loss(same, same, same, same).item() == pytest.approx(-1)
    assert simsiam_loss(same, same, -same, -same).item() == pytest.approx(1)
    assert cross_instance_loss(same, same, torch.arange(4)).item() == pytest.approx(-1)
    assert negative_pair_loss(same, same, margin=0.5).item() == pytest.approx(0.5)
    assert infonce_loss(same, same).item() == pytest.approx(math.log(7))


def test_infonce_pushes_apart_what_cross_instance_pulls_together() -> None:
    z = embeddings(4).requires_grad_()
    (repelled,) = torch.autograd.grad(infonce_loss(z, z.detach()), z)
    (attracted,) = torch.autograd.grad(cross_instance_loss(z, z.detach(), torch.arange(4)), z)
    assert (repelled * attracted).sum() < 0


@all_losses
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeroed", [[0], [0, 1, 2, 3]])
def test_zero_vectors_have_finite_gradients(loss: Loss, dtype: torch.dtype, zeroed: list[int]) -> None:
    a, b = (embeddings(4, seed=seed, dtype=dtype) for seed in range(2))
    a[zeroed] = 0
    b[zeroed] = 0
    a.requires_grad_()
    b.requires_grad_()
    value = loss(a, b)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (a, b)))


@all_losses
def test_gradient(loss: Loss) -> None:
    a, b = embeddings(4), embeddings(4, seed=1)
    if loss is LOSSES["simsiam"]:
        assert torch.autograd.gradcheck(lambda p: simsiam_loss(p, 2 * p, b, a), (a.requires_grad_(),))
    else:
        assert torch.autograd.gradcheck(loss, (a.requires_grad_(), b.requires_grad_()))


def test_simsiam_stops_the_gradient_of_the_projections() -> None:
    p1, p2, z1, z2 = (embeddings(3, seed=seed).requires_grad_() for seed in range(4))
    loss = simsiam_loss(p1, p2, z1, z2)
    gradients = torch.autograd.grad(loss, (p1, p2, z1, z2), allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, False, True, True]
    assert all(gradient.any(dim=1).all() for gradient in gradients[:2])


@pytest.mark.parametrize("num_rows", [1, 5])
def test_one_instance_has_no_cross_instance_pair(num_rows: int) -> None:
    a, b = (embeddings(num_rows, seed=seed).requires_grad_() for seed in range(2))
    value = cross_instance_loss(a, b, torch.full((num_rows,), 3))
    assert value.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(value, (a, b)))


def test_no_negatives_cost_nothing() -> None:
    z = embeddings(3).requires_grad_()
    value = negative_pair_loss(z, embeddings(0))
    assert value.item() == 0
    assert not torch.autograd.grad(value, z)[0].any()


def test_pairs_under_the_margin_are_left_alone() -> None:
    z = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = negative_pair_loss(z, torch.tensor([[0.3, 1.0]]), margin=0.5)
    assert not torch.autograd.grad(loss, z)[0].any()


def test_infonce_needs_two_images() -> None:
    with pytest.raises(ValueError, match="1 images"):
        infonce_loss(embeddings(1), embeddings(1))


@pytest.mark.parametrize("temperature", [0.0, -0.2])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        infonce_loss(embeddings(2), embeddings(2), temperature)


@pytest.mark.parametrize("margin", [-1.5, 1.0, math.nan])
def test_margin_must_be_a_cosine(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        negative_pair_loss(embeddings(2), embeddings(2), margin)


@pytest.mark.parametrize("shape", [(3, 10), (2, 7, 10), (10,)])
def test_projector_keeps_the_leading_axes(shape: tuple[int, ...]) -> None:
    assert Projector(10, 16, 4)(torch.randn(shape)).shape == (*shape[:-1], 4)


def test_projector_repeats_under_the_global_seed() -> None:
    first, again, other = (nn.utils.parameters_to_vector(_seeded_projector(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_projector_treats_every_image_on_its_own() -> None:
    projector, features = _seeded_projector(0), torch.randn(5, 10)
    assert projector.training
    torch.testing.assert_close(projector(features)[2:3], projector(features[2:3]))
    assert not list(projector.buffers())


def test_projector_passes_gradients_and_leaves_features_alone() -> None:
    projector, features = _seeded_projector(0), torch.randn(5, 10, requires_grad=True)
    before = features.detach().clone()
    loss = infonce_loss(projector(features), projector(features + 0.1))
    gradients = torch.autograd.grad(loss, (features, *projector.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert torch.equal(features, before)


def _seeded_projector(seed: int) -> Projector:
    torch.manual_seed(seed)
    return Projector(10, 16, 4)
