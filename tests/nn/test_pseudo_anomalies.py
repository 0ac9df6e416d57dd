import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.pseudo_anomalies import FAMILIES, make_pseudo_anomalies


@pytest.fixture(scope="module")
def image() -> Tensor:
    smooth = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(smooth, (96, 64), mode="bilinear")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_changes_every_image_and_stays_an_image(family: str, image: Tensor) -> None:
    before = image.clone()
    result = FAMILIES[family](image, torch.Generator().manual_seed(1))
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    assert result.min() >= 0
    assert result.max() <= 1
    assert ((result - image).abs() > 0.02).flatten(1).any(dim=1).all()
    assert torch.equal(image, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_generator_alone_decides(family: str, image: Tensor) -> None:
    first = FAMILIES[family](image, torch.Generator().manual_seed(2))
    torch.manual_seed(99)
    second = FAMILIES[family](image, torch.Generator().manual_seed(2))
    other = FAMILIES[family](image, torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_global_generator_is_left_alone(family: str, image: Tensor) -> None:
    state = torch.random.get_rng_state()
    FAMILIES[family](image, torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("family", "least", "most"), [("cutmix", 0.01, 0.2), ("cutout", 0.002, 0.07), ("confetti", 0.002, 0.03)]
)
def test_how_much_of_the_image_changes(family: str, least: float, most: float, image: Tensor) -> None:
    many = image.repeat(10, 1, 1, 1)
    changed = (FAMILIES[family](many, torch.Generator().manual_seed(4)) != many).any(dim=1).float().mean(dim=(1, 2))
    assert least < changed.min()
    assert changed.max() < most


def test_mixup_shows_the_other_image(image: Tensor) -> None:
    mixed = FAMILIES["mixup"](image, torch.Generator().manual_seed(5))
    other = image.roll(1, dims=0).flip(2, 3)
    weight = (mixed - image)[0, 0, 3, 5] / (other - image)[0, 0, 3, 5]
    assert 0.2 <= weight <= 0.5
    torch.testing.assert_close(mixed[0], image[0] * (1 - weight) + other[0] * weight)


def test_families_in_the_order_asked_for(image: Tensor) -> None:
    result = make_pseudo_anomalies(image, torch.Generator().manual_seed(6), ["confetti", "cutout"])
    generator = torch.Generator().manual_seed(6)
    assert torch.equal(result[0], FAMILIES["confetti"](image, generator))
    assert torch.equal(result[1], FAMILIES["cutout"](image, generator))


@pytest.mark.parametrize("families", [[], ["cutout", "glitter"]])
def test_unknown_families_are_named(families: list[str], image: Tensor) -> None:
    with pytest.raises(ValueError, match="choose one or more of cutmix, cutout"):
        make_pseudo_anomalies(image, torch.Generator(), families)
