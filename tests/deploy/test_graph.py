from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_zoo.deploy.graph import InspectionGraph, replace_blocks
from anomaly_zoo.deploy.inspecting import Inspection
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory
from tests.deploy.conftest import METHODS, agree, inspections


def inspect(model: Model, images: list[np.ndarray]) -> list[Inspection]:
    """By the graph, in torch."""
    with torch.no_grad():
        return inspections(*(values.numpy() for values in InspectionGraph(model)(torch.from_numpy(np.stack(images)))))


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_says_what_the_method_says(
    method: str, model_of: Callable[..., Model], images: list[np.ndarray]
) -> None:
    model = model_of(method, "--data.image_size=48")  # the images' own size: nothing is rounded
    expected = TorchInspector(model).inspect(images)
    scores = model.module(torch.from_numpy(np.stack(images)).movedim(3, 1) / 255).image_score
    assert [inspection.image_score for inspection in expected] == pytest.approx(scores.tolist(), rel=1e-5)
    agree(inspect(model, images), expected)


def test_tiles_are_in_the_graph(model_of: Callable[..., Model], images: list[np.ndarray]) -> None:
    model = model_of("frozen", "--data.image_size=48", "--data.tile_px=32")
    agree(inspect(model, images), TorchInspector(model).inspect(images))


def test_the_model_itself_stays_as_it_is(model: Model) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    InspectionGraph(model)
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gaussians_keep_their_distances() -> None:
    torch.manual_seed(0)
    gaussian, features = Gaussian(), torch.randn(12, 5)
    gaussian.fit(torch.randn(20, 5))
    holder = torch.nn.ModuleList([torch.nn.ModuleList([gaussian])])
    replace_blocks(holder)
    (replaced,) = holder[0].children()
    assert not isinstance(replaced, Gaussian)
    torch.testing.assert_close(replaced(features), gaussian(features), rtol=1e-4, atol=1e-4)


def test_a_threshold_between_two_scores_decides(model: Model, images: list[np.ndarray]) -> None:
    score = inspect(model, images[:1])[0].image_score
    for threshold, decision in ((score * 0.999, True), (score * 1.001, False)):
        changed = replace(model, calibration=replace(model.calibration, threshold=threshold))
        assert inspect(changed, images[:1])[0].is_anomalous == decision


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 200, 192, 1000])
def test_memories_of_any_size_keep_their_distances(count: int) -> None:
    torch.manual_seed(0)
    memory = PatchMemory(2, raw=[0])
    memory.fit([torch.randn(count, 6, 1, 1), torch.randint(3, (count, 4, 1, 1)).float()])
    features = [torch.randn(2, 6, 5, 3), torch.randint(3, (2, 4, 2, 2)).float()]  # the second one has many ties
    wanted = memory(features)
    holder = torch.nn.ModuleList([memory])
    replace_blocks(holder)
    found = holder[0](features)
    assert [len(kind) for kind in found] == [2, 1, 0]
    for one, other in zip(found.all(), wanted.all(), strict=True):
        torch.testing.assert_close(one, other)
