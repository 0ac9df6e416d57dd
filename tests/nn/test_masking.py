import copy

import pytest
import torch
from torch import Tensor, nn

from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.masking import add_masks, mask_weights


def network() -> nn.Sequential:
    torch.manual_seed(0)
    small, large = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
    with torch.no_grad():
        small.weight.mul_(0.01)
    return nn.Sequential(small, nn.ReLU(), large)


def weight(layer: nn.Module) -> Tensor:
    value = layer.weight
    assert isinstance(value, Tensor)
    return value


def zeros(layer: nn.Module) -> float:
    return float((weight(layer) == 0).float().mean())


def test_the_smallest_weights_of_every_layer_become_0() -> None:
    net = network()
    before = [weight(net[0]).detach().clone(), weight(net[2]).detach().clone()]
    assert mask_weights(net, 0.5, "layer") == ["0", "2"]
    for layer, full in zip((net[0], net[2]), before, strict=True):
        size = full.abs()
        expected = torch.where(size > size.flatten().sort().values[full.numel() // 2 - 1], full, 0)
        assert torch.equal(weight(layer), expected)


def test_layers_compete_under_global_scope() -> None:
    net = network()
    mask_weights(net, 0.4, "global")
    num_small, num_large = 3 * 8 * 9, 8 * 4 * 9
    total = zeros(net[0]) * num_small + zeros(net[2]) * num_large
    assert total == pytest.approx(0.4 * (num_small + num_large), abs=1)
    assert zeros(net[0]) > 0.8 > 0.2 > zeros(net[2])


def test_masked_weights_stay_0_while_training_and_rounds_add_up() -> None:
    net = network()
    mask_weights(net, 0.3, "layer")
    masked = weight(net[0]) == 0
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert (weight(net[0])[masked] == 0).all()
    assert (weight(net[0])[~masked] != 0).all()
    mask_weights(net, 0.6, "layer")
    assert (weight(net[0])[masked] == 0).all()
    assert zeros(net[0]) == pytest.approx(0.6, abs=0.01)


def test_a_copy_with_masks_takes_the_state() -> None:
    net, other = network(), network()
    names = mask_weights(net, 0.5, "layer")
    add_masks(other, names)
    other.load_state_dict(net.state_dict())
    assert torch.equal(weight(copy.deepcopy(other)[2]), weight(net[2]))


def test_a_backbone_keeps_its_shapes() -> None:
    backbone = Backbone("test_resnet", weights="none")
    image = torch.rand(2, 3, 64, 64)
    before = [stage.shape for stage in backbone(image)]
    assert mask_weights(backbone, 0.0, "layer") == []
    mask_weights(backbone, 0.9, "global")
    assert [stage.shape for stage in backbone(image)] == before


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pruning_ratio=-0\.1"):
        mask_weights(network(), -0.1, "layer")
