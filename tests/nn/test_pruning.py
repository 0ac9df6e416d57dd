import copy
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from anomaly_zoo.nn.network import Network
from anomaly_zoo.nn.pruning import Criterion, History, prune_channels, replay

# by name: the module of a hidden layer and its channels before pruning
HIDDEN = {
    "tf_efficientnet_lite0": ("tail.model.blocks.3.1.conv_pw", 480),
    "test_resnet": ("tail.model.layer3.0.conv1", 48),
    "test_convnext": ("tail.model.stages.2.blocks.0.mlp.fc1", 192),
    "test_vit": ("tail.model.blocks.2.mlp.fc1", 192),
}
LARGE = {
    "resnet18": ("tail.model.layer2.0.conv1", 128),
    "wide_resnet50_2": ("tail.model.layer2.0.conv1", 256),
    "convnext_atto": ("tail.model.stages.1.blocks.0.mlp.fc1", 320),
    "vit_small_patch14_dinov2": ("tail.model.blocks.2.mlp.fc1", 1536),
}
ARCHITECTURES = [*HIDDEN, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


def backbone(name: str = "test_resnet") -> Network:
    torch.manual_seed(0)
    return Network(name, weights="none")


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def pruned(before: Network, ratio: float, criterion: Criterion = "l1") -> tuple[Network, History]:
    after = copy.deepcopy(before)
    return after, prune_channels(after, ratio, criterion, images())


@torch.no_grad()
def features(network: nn.Module) -> list[Tensor]:
    stages: list[Tensor] = network(images())
    return stages


def num_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_layers_lose_the_ratio_and_stages_keep_their_width(name: str) -> None:
    before = backbone(name)
    after, _ = pruned(before, 0.5)
    layer, channels = (HIDDEN | LARGE)[name]
    left: Any = after.get_submodule(layer).weight
    assert len(left) == channels // 2
    assert [stage.shape for stage in features(after)] == [stage.shape for stage in features(before)]
    assert num_params(after) < 0.8 * num_params(before)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replaying_the_history_gives_the_same_shapes_and_features(name: str) -> None:
    before = backbone(name)
    after, history = pruned(before, 0.6, "fpgm")
    again = copy.deepcopy(before)
    replay(again, history)
    again.load_state_dict(after.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(features(after), features(again), strict=True))


def test_histories_of_several_rounds_join() -> None:
    before = backbone()
    after, first = pruned(before, 0.3)
    second = prune_channels(after, 0.3, "l2", images())
    again = copy.deepcopy(before)
    replay(again, first + second)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in after.state_dict().items()
    }


def test_a_history_is_of_plain_values() -> None:
    _, history = pruned(backbone(), 0.5)
    assert history
    for name, is_output, channels in history:
        assert (type(name), type(is_output), type(channels[0])) == (str, bool, int)


def silence(network: Network, num_silent: int) -> list[int]:
    """Lets some hidden channels carry nothing, spread over the layer, with weights near 0 around them."""
    layer, norm, following = (
        network.get_submodule(f"tail.model.layer3.0.{name}") for name in ("conv1", "bn1", "conv2")
    )
    silent = list(range(0, 2 * num_silent, 2))
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)  # type: ignore[operator]
        for parameter in (layer.weight, norm.weight, norm.bias):
            parameter[silent] = 0  # type: ignore[operator]
        following.weight[:, silent] *= 1e-6  # type: ignore[index, operator]
    return silent


@pytest.mark.parametrize("criterion", ["l1", "l2", "lamp", "batchnorm"])
def test_what_goes_is_what_carries_nothing(criterion: Criterion) -> None:
    before = backbone()
    silent = silence(before, 24)
    _, history = pruned(before, 0.5, criterion)
    removed = {name: set(channels) for name, _, channels in history}
    assert removed["backbone.tail.model.layer3.0.conv1"] == set(silent)


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_pruning_what_carries_nothing_leaves_the_features(criterion: Criterion) -> None:
    before = backbone("test_vit")
    with torch.no_grad():
        for block in range(len(before.get_submodule("tail.model.blocks"))):  # type: ignore[arg-type]
            hidden = before.get_submodule(f"tail.model.blocks.{block}.mlp.fc1")
            following = before.get_submodule(f"tail.model.blocks.{block}.mlp.fc2")
            hidden.weight[::2], hidden.bias[::2], following.weight[:, ::2] = 0, 0, 0  # type: ignore[operator]
    after, _ = pruned(before, 0.5, criterion)
    for a, b in zip(features(before), features(after), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("criterion", get_args(Criterion))
def test_every_criterion_reaches_a_layer_s_least(criterion: Criterion) -> None:
    after, _ = pruned(backbone(), 0.95, criterion)
    left: Any = after.get_submodule("tail.model.layer3.0.conv1").weight
    assert 1 <= len(left) <= 3
    assert all(stage.isfinite().all() for stage in features(after))


def test_random_follows_the_seed() -> None:
    before, histories = backbone(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        histories.append(prune_channels(copy.deepcopy(before), 0.5, "random", images()))
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize("criterion", ["l1", "taylor"])
def test_the_network_is_left_as_it_was_but_for_its_channels(criterion: Criterion) -> None:
    frozen = backbone().requires_grad_(False)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    prune_channels(frozen, 0.5, criterion, images())
    assert torch.equal(torch.rand(1), expected)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen.parameters())
    assert not frozen.training
    assert set(frozen.state_dict()) == set(backbone().state_dict())


def test_ratio_0_changes_nothing() -> None:
    before = backbone()
    after, history = pruned(before, 0.0)
    assert history == []
    assert all(torch.equal(a, b) for a, b in zip(features(before), features(after), strict=True))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_ratio=0\.97: choose 0 to 0\.95"):
        prune_channels(backbone(), 0.97, "l1", images())
    with pytest.raises(ValueError, match="test_vit has no batch normalisation"):
        prune_channels(backbone("test_vit"), 0.5, "batchnorm", images())
