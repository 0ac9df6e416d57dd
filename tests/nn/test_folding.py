import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_zoo.nn.folding import Folded
from anomaly_zoo.nn.network import Network

SMALL = ("tf_efficientnet_lite0", "test_resnet", "test_efficientnet")
LARGE = ("resnetv2_50", "densenet121", "vgg11_bn")


def make(name: str) -> Network:
    """Weights and statistics that batch norms change much."""
    torch.manual_seed(0)
    backbone = Network(name, [1, 2], weights="none")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return backbone


def assert_same_features(backbone: Network, image: Tensor) -> None:
    unfolded = [feature.detach() for feature in backbone(image)]
    with torch.no_grad():
        features = backbone(image)
    for feature, expected in zip(features, unfolded, strict=True):
        assert (feature - expected).norm() < 1e-5 * expected.norm()


def num_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def folded(backbone: Network, image: Tensor) -> Any:
    x = backbone.trunk(image)[-1]
    tail = backbone.tail
    return tail._folded.of(tail.model, lambda model: tail.features(model, x))


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_the_features_stay(name: str) -> None:
    assert_same_features(make(name), torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(("height", "width"), [(32, 64), (62, 36), (33, 64), (50, 47), (1, 2)])
def test_the_padding_of_tensorflow_stays(height: int, width: int) -> None:
    backbone = make("tf_efficientnet_lite0")
    assert_same_features(backbone, torch.rand(2, 3, 64, 64))
    assert_same_features(backbone, torch.rand(2, 3, height, width))


@pytest.mark.parametrize("name", SMALL)
def test_no_batch_norm_is_left(name: str) -> None:
    backbone, image = make(name), torch.rand(1, 3, 64, 64)
    keys = backbone.state_dict().keys()
    assert num_norms(backbone.tail) > num_norms(folded(backbone, image)) == 0
    assert backbone.state_dict().keys() == keys


def test_a_network_without_batch_norms_is_not_copied() -> None:
    backbone = Network("test_vit", weights="none")
    assert folded(backbone, torch.rand(1, 3, 32, 32)) is backbone.tail.model


def test_changed_weights_are_noticed() -> None:
    backbone, image = make("test_resnet"), torch.rand(2, 3, 64, 64)
    assert_same_features(backbone, image)
    before = folded(backbone, image)
    assert folded(backbone, image) is before
    optimizer = torch.optim.Adam(backbone.parameters(), lr=0.1)
    sum(feature.square().mean() for feature in backbone(image)).backward()
    optimizer.step()
    assert_same_features(backbone, image)
    assert folded(backbone, image) is not before
    backbone.load_state_dict(make("test_resnet").state_dict())
    assert_same_features(backbone, image)
    backbone.double()
    assert_same_features(backbone, image.double())


def test_a_copy_folds_its_own_weights() -> None:
    backbone, image = make("test_resnet"), torch.rand(2, 3, 64, 64)
    assert_same_features(backbone, image)
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        next(iter(twin.parameters())).mul_(2)
    assert_same_features(twin, image)
    assert_same_features(backbone, image)


def test_a_norm_that_only_seems_to_follow_stays() -> None:
    class Misleading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            first: Tensor = self.conv(self.norm(x).relu())
            return first

    torch.manual_seed(0)
    network, image = Misleading().eval(), torch.randn(1, 4, 8, 8)
    nn.init.normal_(network.norm.bias)
    with torch.no_grad():
        for _ in range(2):
            assert Folded().of(network, lambda model: [model(image)]) is network
