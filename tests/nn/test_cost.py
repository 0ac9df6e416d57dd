import torch
from torch import nn

from anomaly_zoo.nn.cost import cost

IMAGE = torch.rand(2, 3, 16, 16)


def test_parameters_and_operations_of_convolutions() -> None:
    measured = cost(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)), IMAGE, repeats=3)
    assert measured.params == 3 * 8 * 9 + 8 + 8 * 4 + 4
    assert measured.macs == 16 * 16 * (3 * 8 * 9 + 8 * 4)
    assert measured.latency_ms > 0


def test_weights_that_are_0_do_not_count() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    with torch.no_grad():
        network[0].weight[:2] = 0  # type: ignore[operator]
    assert cost(network, IMAGE, repeats=1).params == 6 * 3 * 9 + 8


def test_more_work_takes_longer() -> None:
    one, many = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)), nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1)] * 40)
    image = torch.rand(2, 3, 64, 64)
    assert cost(many, image, repeats=5).latency_ms > 3 * cost(one, image, repeats=5).latency_ms
