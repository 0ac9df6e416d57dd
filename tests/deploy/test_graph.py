from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.export import build_graph
from anomaly_zoo.deploy.graph import InspectionGraph, replace_blocks
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from anomaly_zoo.nn.gaussian import Gaussian
from anomaly_zoo.nn.memory import PatchMemory
from tests.deploy.conftest import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_the_graph_says_what_the_method_says(
    method: str, model_of: Callable[..., Model], test_images: list[Path]
) -> None:
    agree(model_of(method, "--data.image_size=48"), test_images)  # the images' own size: nothing is rounded


def test_tiles_are_in_the_graph(model_of: Callable[..., Model], test_images: list[Path]) -> None:
    agree(model_of("frozen", "--data.image_size=48", "--data.tile_px=32"), test_images)


def agree(model: Model, paths: list[Path]) -> None:
    images = [read_image(path) for path in paths]
    expected = TorchInspector(model).inspect(images)
    scores = model.module(torch.stack([torch.from_numpy(image) for image in images]).movedim(3, 1) / 255).image_score
    if model.tiling is None:
        assert [inspection.image_score for inspection in expected] == pytest.approx(scores.tolist(), rel=1e-5)
    with torch.no_grad():
        found = build_graph(model)(torch.stack([torch.from_numpy(image) for image in images]))
    fields = ("image_score", "anomaly_map", "p_value", "conformal_p_value", "is_anomalous")
    for field, values in zip(fields, found, strict=True):
        wanted = torch.stack([torch.as_tensor(getattr(inspection, field)) for inspection in expected])
        torch.testing.assert_close(values.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-5)


def test_the_model_itself_stays_as_it_is(model: Model) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    build_graph(model)
    after = model.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gaussians_keep_their_distances() -> None:
    class Method(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList([Gaussian()])

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return image[:, 0], self.inner[0](features)

    torch.manual_seed(0)
    features = torch.randn(12, 5)
    method = Method()
    method.inner[0].fit(torch.randn(20, 5))  # type: ignore[operator]
    expected = method.inner[0](features)
    InspectionGraph(method, 8, None, 0.0, [0.0, 1.0], [1.0, 0.5], [0.0, 1.0])
    assert not isinstance(method.inner[0], Gaussian)
    torch.testing.assert_close(method.inner[0](features), expected, rtol=1e-4, atol=1e-4)


def test_a_threshold_between_two_scores_decides(model: Model, test_images: list[Path]) -> None:
    image = torch.from_numpy(read_image(test_images[0]))[None]
    score = build_graph(model)(image)[0].item()
    for threshold, decision in ((score * 0.999, True), (score * 1.001, False)):
        changed = replace(model, calibration=replace(model.calibration, threshold=threshold))
        assert build_graph(changed)(image)[4].item() is decision


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 200, 192, 1000])
def test_memories_of_any_size_keep_their_distances(count: int) -> None:
    torch.manual_seed(0)
    memory = PatchMemory(2, num_raw=1)
    memory.fit([torch.randn(count, 6, 1, 1), torch.randint(3, (count, 4, 1, 1)).float()])
    features = [torch.randn(2, 6, 5, 3), torch.randint(3, (2, 4, 2, 2)).float()]  # the second one has many ties
    wanted = memory(features)
    holder = torch.nn.ModuleList([memory])
    replace_blocks(holder)
    found = holder[0](features)
    assert [len(kind) for kind in found] == [2, 1, 0]
    for one, other in zip(found.all(), wanted.all(), strict=True):
        torch.testing.assert_close(one, other)
