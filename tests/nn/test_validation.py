import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from anomaly_zoo.nn.validation import SupportStop, held_out_folds, instances, separation


def test_every_view_is_held_out_once_with_the_other_views_of_its_image() -> None:
    instance = instances([f"{number}.png" for number in range(11) for _ in range(3)])
    folds = held_out_folds(instance, max_folds=4)
    assert len(folds) == 4
    assert torch.equal(torch.stack(folds).sum(dim=0), torch.ones(33, dtype=torch.long))
    for fold in folds:
        assert not set(instance[fold].tolist()) & set(instance[~fold].tolist())


def test_views_of_a_single_image_are_held_out_one_by_one() -> None:
    folds = held_out_folds(instances(["a.png"] * 5))
    assert torch.equal(torch.stack(folds), torch.eye(5, dtype=torch.bool))


def test_nothing_can_be_held_out_of_one_view() -> None:
    assert held_out_folds(torch.tensor([0])) == []


@pytest.mark.parametrize("seed", range(5))
def test_separation_is_the_area_under_the_roc_curve(seed: int) -> None:
    torch.manual_seed(seed)
    normal, anomalous = torch.randint(5, (13,)).float(), torch.randint(1, 7, (9,)).float()
    label = [0] * 13 + [1] * 9
    reference = roc_auc_score(label, torch.cat([normal, anomalous]).tolist())
    assert separation(normal, anomalous).item() == pytest.approx(reference, abs=1e-6)


def test_the_first_of_the_best_states_comes_back() -> None:
    network, stop = torch.nn.Linear(1, 1, bias=False), SupportStop(check_every=1, patience=3)
    spent = []
    for step, score in enumerate([0.5, 0.75, 0.75, 0.625, 0.5]):
        with torch.no_grad():
            network.weight.fill_(step)
        assert stop.note(network, step, torch.tensor([score, score])) == score
        spent.append(stop.is_patience_spent)
    assert spent == [False, False, False, False, True]
    stop.restore(network)
    assert stop.best_step == 1
    assert network.weight.item() == 1
    assert stop.curve.tolist() == [[0, 0.5], [1, 0.75], [2, 0.75], [3, 0.625], [4, 0.5]]


def is_better(gain: torch.Tensor) -> bool:
    network, stop = torch.nn.Linear(1, 1), SupportStop(check_every=5, patience=1)
    stop.note(network, 0, torch.full_like(gain, 0.5))
    stop.note(network, 5, 0.5 + gain)
    stop.restore(network)
    return bool(stop.best_step == 5)


@pytest.mark.parametrize("seed", range(20))
def test_a_gain_that_may_be_chance_is_none(seed: int) -> None:
    gain = torch.randn(12, generator=torch.Generator().manual_seed(seed)) / 10 + 0.07
    assert is_better(gain) == (stats.ttest_1samp(gain, 0, alternative="greater").pvalue < 0.025)


def test_a_single_value_has_no_error() -> None:
    assert is_better(torch.tensor([0.01]))
    assert not is_better(torch.tensor([0.0]))


def test_without_a_check_there_is_no_best_state() -> None:
    stop = SupportStop(check_every=1, patience=1)
    assert not stop.is_due(0)
    with pytest.raises(RuntimeError, match="No check"):
        stop.restore(torch.nn.Linear(1, 1))
