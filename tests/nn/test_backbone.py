from typing import Any

import pytest
import torch
from torch import Tensor

from anomaly_zoo.nn.backbone import Backbone, scaled
from anomaly_zoo.nn.network import Network, stages_of

CNN, VIT = "test_resnet", "test_vit"


def image(height: int = 96, width: int = 160, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def joined(name: str = f"{CNN}+{VIT}", **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, weights="none", **options).requires_grad_(False)


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@torch.no_grad()
def test_one_network_at_one_scale_is_that_network() -> None:
    backbone = joined(CNN)
    network = backbone.networks[0]
    assert_same(backbone(image()), network(image()))
    assert backbone.num_channels == network.num_channels
    levels, seen = backbone.trunk(image())
    assert_same(levels, network.trunk(image()))
    assert_same(seen, levels[-1:])
    assert backbone.num_early == len(levels) > 0


@torch.no_grad()
@pytest.mark.parametrize("scales", [[1.0], [0.5, 1.0]])
def test_stages_of_every_network_and_scale(scales: list[float]) -> None:
    backbone = joined(scales=scales)
    expected = [s for network in backbone.networks for scale in scales for s in network(scaled(image(), scale))]
    assert_same(backbone(image()), expected)
    assert backbone.num_channels == [stage.shape[1] for stage in expected]
    levels, seen = backbone.trunk(image())
    assert (len(levels), len(seen)) == (backbone.num_early, 2 * len(scales))
    assert_same(backbone.tail(seen), expected)
    tails = backbone.trainable_tail()
    assert_same(tails(seen), expected)
    assert tails.num_stages == len(expected)
    sizes = [stage.shape[2:].numel() for stage in expected]
    firsts = [0, 3] if len(scales) == 1 else [0, 3, 6, 8]
    assert backbone.finest(1) == firsts
    assert backbone.finest(2) == [number for first in firsts for number in (first, first + 1)]
    assert all(sizes[number] >= sizes[number + 1] for number in firsts)


@torch.no_grad()
def test_numbers_of_stages_among_all_levels() -> None:
    backbone = joined(scales=[0.5, 1.0])
    tails = backbone.trainable_tail(all_levels=True)
    stages = tails(backbone.trunk(image())[1])
    wanted = [network.stages for network in backbone.networks]
    assert_same([stages[number] for number in tails.numbers_of(wanted)], backbone(image()))


@torch.no_grad()
def test_many_images_come_in_parts() -> None:
    backbone = joined(scales=[0.5, 1.0])
    many = image(64, 64, count=19)
    for found, expected in zip(stages_of(backbone, many), backbone(many), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    seen = backbone.trunk(many)[1]
    for found, expected in zip(stages_of(backbone.tail, seen), backbone.tail(seen), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"scales": [0.5, 1.0]}, {"stages": [[1, 2], [3]]}])
def test_the_spec_rebuilds_the_architecture(options: dict[str, Any]) -> None:
    backbone = joined(**options)
    rebuilt = Backbone(**backbone.spec, weights="none")
    assert rebuilt.spec == backbone.spec
    rebuilt.load_state_dict(backbone.state_dict(), strict=True)
    with torch.inference_mode():
        assert_same(rebuilt(image()), backbone(image()))


def test_each_network_has_its_own_weights_and_normalisation(tmp_path: Any) -> None:
    for name in (CNN, VIT):
        torch.manual_seed(1)
        torch.save(Network(name, weights="none").tail.model.state_dict(), tmp_path / f"{name}.pth")
    files = "+".join(str(tmp_path / f"{name}.pth") for name in (CNN, VIT))
    with pytest.raises(ValueError, match="lacks"):  # the tail of a CNN is not all of it
        Backbone(f"{CNN}+{VIT}", weights=files)
    vit = str(tmp_path / f"{VIT}.pth")
    backbone = Backbone(f"{VIT}+{VIT}", weights=f"{vit}+{vit}")
    assert_same(list(backbone.networks[0].parameters()), list(backbone.networks[1].parameters()))


@pytest.mark.parametrize(
    ("scale", "size"), [(1.0, (96, 160)), (0.667, (64, 96)), (0.5, (64, 64)), (0.1, (32, 32)), (0.9, (96, 128))]
)
def test_sides_of_a_scaled_image_are_multiples_of_32(scale: float, size: tuple[int, int]) -> None:
    assert scaled(image(), scale).shape[2:] == size


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (CNN, {"scales": []}, r"scales=\[\]: choose different numbers above 0 and at most 1"),
        (CNN, {"scales": [1.0, 1.0]}, "choose different numbers"),
        (CNN, {"scales": [1.5]}, "choose different numbers"),
        (CNN, {"scales": [0.0]}, "choose different numbers"),
        (f"{CNN}+{VIT}", {"stages": [1]}, r"stages=\[1\]: give a list for each of test_resnet\+test_vit"),
        (f"{CNN}+", {}, "backbone '' is not a timm model"),
        (f"{CNN}+{VIT}", {"weights": "a.pth"}, r"weights='a\.pth': give one file for each of test_resnet\+test_vit"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(name, **{"weights": "none", **options})
