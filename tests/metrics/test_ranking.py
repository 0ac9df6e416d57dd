from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from anomaly_zoo.metrics import auroc
from anomaly_zoo.metrics.ranking import Counts, to_array

Function: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def average_precision(score: Tensor, label: Tensor) -> Tensor:
    return torch.tensor(Counts.of([to_array(score)], [to_array(label)]).average_precision(), dtype=torch.float64)


def f1_max(score: Tensor, label: Tensor) -> Tensor:
    return torch.tensor(Counts.of([to_array(score)], [to_array(label)]).f1_max(), dtype=torch.float64)


all_functions = pytest.mark.parametrize("function", [auroc, average_precision, f1_max], ids=lambda f: f.__name__)


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Scores from 2 to 40 distinct values, so with few to many ties, around an offset far outside [0, 1]."""
    rng = np.random.default_rng(seed)
    num_samples = int(rng.integers(2, 120))
    label = rng.random(num_samples) < rng.uniform(0.05, 0.95)
    label[:2] = [False, True]
    levels = int(rng.integers(2, 41))
    score = np.round((rng.normal(size=num_samples) + label) * levels / 6) + rng.choice([-300.0, 0.0, 60.0])
    return torch.from_numpy(score.astype(rng.choice(["f4", "f8"]))), torch.from_numpy(label)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Integer scores, so that sums and products in the tests are exact, with at least one of each label."""
    normal = draw(st.lists(st.integers(-20, 20), min_size=1, max_size=30))
    anomalous = draw(st.lists(st.integers(-20, 20), min_size=1, max_size=30))
    order = draw(st.permutations(range(len(normal) + len(anomalous))))
    score = torch.tensor(normal + anomalous, dtype=torch.float32)
    return score[list(order)], (torch.arange(len(score)) >= len(normal))[list(order)]


@pytest.mark.parametrize("seed", range(200))
def test_equals_scikit_learn(seed: int) -> None:
    score, label = random_case(seed)
    precision, recall, _ = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert auroc(score, label).item() == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert average_precision(score, label).item() == pytest.approx(average_precision_score(label, score), abs=1e-12)
    assert f1_max(score, label).item() == pytest.approx(f1.max(), abs=1e-12)


def test_unbounded_scores_keep_their_order() -> None:
    """torchmetrics pushes scores outside [0, 1] through a sigmoid, and sigmoid(60) is 1 in float32: all tie."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(200) >= 100
    score = 60 + torch.randn(200, generator=generator) + 1.7 * label
    theirs = BinaryAUROC()
    theirs.update(score, label.long())
    assert theirs.compute().item() == 0.5
    assert auroc(score, label).item() == pytest.approx(roc_auc_score(label, score))
    assert auroc(score, label).item() > 0.85


def test_returns_float64_scalar() -> None:
    value = auroc(*random_case(0))
    assert (value.shape, value.dtype) == ((), torch.float64)


@given(cases())
@settings(deadline=None)
def test_auroc_counts_pairs(case: tuple[Tensor, Tensor]) -> None:
    score, label = case
    difference = score[label][:, None] - score[~label]
    assert auroc(score, label).item() == pytest.approx((difference.sign().double().mean().item() + 1) / 2, abs=1e-12)


@given(cases())
@settings(deadline=None)
def test_inverted_scores_mirror_auroc(case: tuple[Tensor, Tensor]) -> None:
    score, label = case
    assert auroc(-score, label).item() == pytest.approx(1 - auroc(score, label).item(), abs=1e-12)
    assert auroc(score, ~label).item() == pytest.approx(1 - auroc(score, label).item(), abs=1e-12)


@all_functions
@given(case=cases(), scale=st.sampled_from([0.5, 1.0, 8.0]), shift=st.integers(-1000, 1000))
@settings(deadline=None)
def test_only_the_order_counts(function: Function, case: tuple[Tensor, Tensor], scale: float, shift: int) -> None:
    score, label = case
    value = function(score, label)
    assert torch.equal(function(score * scale + shift, label), value)
    assert torch.equal(function(score.double().exp(), label), value)
    assert torch.equal(function(score**3, label), value)


@all_functions
@given(case=cases(), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_sample_order_does_not_count(function: Function, case: tuple[Tensor, Tensor], seed: int) -> None:
    score, label = case
    shuffle = torch.randperm(len(score), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(function(score[shuffle], label[shuffle]), function(score, label))


@given(st.integers(1, 30), st.integers(1, 30), st.floats(-1e6, 1e6, width=32))
@settings(deadline=None)
def test_constant_scores_are_chance(num_normal: int, num_anomalous: int, value: float) -> None:
    label = torch.arange(num_normal + num_anomalous) >= num_normal
    score = torch.full(label.shape, value)
    ratio = num_anomalous / len(label)
    assert auroc(score, label).item() == 0.5
    assert average_precision(score, label).item() == pytest.approx(ratio)
    assert f1_max(score, label).item() == pytest.approx(2 * ratio / (1 + ratio))


@all_functions
def test_perfect_ranking_is_one(function: Function) -> None:
    assert function(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([False, True, True])).item() == 1


@all_functions
def test_signed_zeros_tie(function: Function) -> None:
    label = torch.tensor([False, True])
    assert torch.equal(function(torch.tensor([-0.0, 0.0]), label), function(torch.tensor([0.0, 0.0]), label))


def test_float64_is_not_rounded() -> None:
    score = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert auroc(score, torch.tensor([False, True])).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats(dtype: torch.dtype) -> None:
    score = torch.tensor([1, 3, 2, 4], dtype=dtype)
    assert auroc(score, torch.tensor([False, False, True, True])).item() == 0.75


@all_functions
def test_input_is_left_alone(function: Function) -> None:
    score, label = random_case(3)
    score_before, label_before = score.clone(), label.clone()
    function(score.requires_grad_(), label)
    assert torch.equal(score, score_before)
    assert torch.equal(label, label_before)


@all_functions
@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([1.0, 2.0], [True, True], "got 0 normal and 2 anomalous"),
        ([1.0, 2.0], [False, False], "got 2 normal and 0 anomalous"),
        ([], [], "got 0 normal and 0 anomalous"),
        ([1.0, float("nan"), 3.0], [False, True, True], "finite, got nan"),
        ([1.0, float("nan"), 3.0], [True, False, False], "finite, got nan"),
        ([1.0, float("inf"), 3.0], [False, True, True], "finite, got inf"),
        ([1.0, float("-inf"), 3.0], [True, False, False], "finite, got -inf"),
    ],
)
def test_undefined_raises(function: Function, score: list[float], label: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(torch.tensor(score), torch.tensor(label, dtype=torch.bool))


@pytest.mark.usefixtures("no_type_hook")
@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        (torch.rand(3), torch.tensor([False, True]), r"one shape.*got \(3,\) and \(2,\)"),
        (torch.rand(1, 2), torch.tensor([[False, True]]), r"1 dimension.*got \(1, 2\)"),
        (torch.rand(2), torch.tensor([0, 1]), r"bool, got torch\.int64"),
        (torch.tensor([1, 2]), torch.tensor([False, True]), r"floating point, got torch\.int64"),
    ],
)
def test_wrong_input_raises(score: Tensor, label: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auroc(score, label)


@all_functions
def test_memory(function: Function, peak_bytes: Callable[[Callable[[], object]], int]) -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(1_000_000, generator=generator)
    label = torch.rand(1_000_000, generator=generator) < 0.05
    assert peak_bytes(lambda: function(score, label)) <= 16 * score.numel()
