import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anomaly_zoo.nn import validation
from anomaly_zoo.nn.validation import (
    MAX_VIEWS,
    ForgettingStop,
    held_out_parts,
    hold_out,
    kept_out,
    separation,
)
from anomaly_zoo.types import Batch


def test_every_image_is_held_out_once_with_all_its_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MAX_FOLDS", 4)
    parts = held_out_parts(torch.arange(66).view(11, 2, 3))
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert sorted(torch.cat([part.flatten() for part in parts]).tolist()) == list(range(66))
    assert all(part.shape[1:] == (2, 3) for part in parts)


def test_views_of_a_single_image_are_held_out_one_by_one() -> None:
    parts = held_out_parts(torch.arange(8).view(1, 2, 4))
    assert [part.flatten().tolist() for part in parts] == [[1, 5], [2, 6], [3, 7]]


def test_nothing_can_be_held_out_of_one_view() -> None:
    assert held_out_parts(torch.zeros(1, 1, 1, dtype=torch.long)) == []


@pytest.mark.parametrize("seed", range(5))
def test_separation_is_the_area_under_the_roc_curve(seed: int) -> None:
    torch.manual_seed(seed)
    normal, anomalous = torch.randint(5, (13,)).float(), torch.randint(1, 7, (9,)).float()
    label = [0] * 13 + [1] * 9
    reference = roc_auc_score(label, torch.cat([normal, anomalous]).tolist())
    assert separation(normal, anomalous).item() == pytest.approx(reference, abs=1e-6)


def support(num_images: int, views: int) -> Batch:
    """Every view has its number as the colour."""
    image = torch.arange(num_images * views)[:, None, None, None].expand(-1, 3, 4, 4).float()
    path = [f"{number}.png" for number in range(num_images) for _ in range(views)]
    nothing = torch.zeros(len(image), dtype=torch.bool)
    return Batch(image, nothing[:, None, None].expand(-1, 4, 4), nothing, path)


@pytest.mark.parametrize(("num_images", "views"), [(4, 8), (9, 3), (8, 16)])
def test_images_that_are_kept_out_are_checked_with_few_views(num_images: int, views: int) -> None:
    files = [f"{number}.png" for number in range(num_images)]
    paths = kept_out(files)
    assert len(paths) == -(-num_images // 4)
    held = hold_out(support(num_images, views), paths, lambda normal: torch.stack([normal + 100, normal + 200]))
    assert held is not None
    normal, fitted = ({int(number) for number in images[:, 0, 0, 0]} for images in (held.normal, held.fitted))
    out, rest = ({files[number // views] for number in numbers} for numbers in (normal, fitted))
    assert out == set(paths)
    assert out | rest == set(files)
    assert len(normal) <= MAX_VIEWS * len(out)
    assert torch.equal(held.anomalous, torch.stack([held.normal + 100, held.normal + 200]))


@pytest.mark.parametrize(("num_images", "views", "num_out"), [(1, 8, 2), (2, 1, 1), (3, 8, 3), (3, 4, 3)])
def test_of_fewer_than_four_images_only_views_are_held_out(num_images: int, views: int, num_out: int) -> None:
    assert kept_out(["a.png", "b.png", "c.png"]) == []
    held = hold_out(support(num_images, views), [], lambda normal: normal[None])
    assert held is not None
    assert len(held.normal) == num_out
    assert hold_out(support(1, 1), [], lambda normal: normal[None]) is None


class Course:
    """A network whose parameters change at random from check to check."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network, self.stop = nn.Linear(3, 2), ForgettingStop()
        self.states: list[dict[str, Tensor]] = []

    def check(self, *scores: list[float] | Tensor) -> list[bool]:
        forgotten = []
        for of_step in scores:
            for parameter in self.network.parameters():
                nn.init.normal_(parameter)
            self.states.append({name: value.clone() for name, value in self.network.state_dict().items()})
            forgotten.append(self.stop.has_forgotten(self.network, 5 * len(self.states) - 5, torch.as_tensor(of_step)))
        return forgotten

    def restored(self) -> int:
        """The number of the check whose state came back, bit for bit."""
        self.stop.restore(self.network)
        now = self.network.state_dict()
        (number,) = (
            number
            for number, state in enumerate(self.states)
            if all(torch.equal(value, state[name]) for name, value in now.items())
        )
        return number


def test_training_goes_on_while_scores_stay_equal_or_rise() -> None:
    course = Course()
    assert course.check([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [0.5, 0.6, 0.7]) == [False] * 4
    assert course.stop.best_step == 15  # the last of those that are equally good
    assert course.restored() == 3


def test_a_fall_is_noticed_and_the_best_state_comes_back() -> None:
    course = Course()
    forgotten = course.check([0.5, 0.6, 0.7], [0.8, 0.9, 0.8], [0.79, 0.91, 0.79], [0.3, 0.4, 0.35])
    assert forgotten == [False, False, False, True]
    assert course.stop.best_step == 5
    assert course.restored() == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_fall_that_may_be_chance_is_none(seed: int) -> None:
    fall = torch.randn(12, generator=torch.Generator().manual_seed(seed)) / 10 + 0.07
    expected = bool(fall.mean() > 0 and stats.ttest_1samp(fall, 0, alternative="greater").pvalue < 0.025)
    assert Course().check(torch.full((12,), 0.5), 0.5 - fall)[1] == expected


def test_every_fall_counts_where_there_is_a_single_score() -> None:
    assert Course().check([0.5], [0.5], [0.49]) == [False, False, True]
