from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_zoo.methods.coft import COFT
from tests.methods.fitting import IMAGE, create, fit, fitted_views, is_state, mahalanobis, nearest, state, tuned, views


def embedding(stages: list[Tensor]) -> Tensor:
    pooled = torch.cat([stage.detach().double().mean(dim=(2, 3)) for stage in stages], dim=1)
    unit: Tensor = pooled / pooled.norm(dim=1, keepdim=True)
    return unit


@pytest.mark.parametrize("memory", [True, False])
def test_own_distances_are_those_of_tuned_embeddings_and_patches(memory: bool, tiny_root: Path) -> None:
    module = fit(create(COFT, steps=2, memory=memory), tiny_root)
    with torch.no_grad():
        patch, detail, image = module.distances(module.features(IMAGE))
        normal, asked = tuned(module, fitted_views(module).image), tuned(module, IMAGE)
    assert not patch
    (distance,) = image
    np.testing.assert_allclose(distance, mahalanobis(embedding(normal), embedding(asked)), rtol=1e-3)
    for found, *stages in zip(detail, normal, asked, strict=True):
        torch.testing.assert_close(found, nearest(*stages)[0], rtol=1e-3, atol=1e-5)


def test_without_steps_the_network_is_the_backbone(tiny_root: Path) -> None:
    module = fit(create(COFT, steps=0), tiny_root)
    assert is_state(module.network, state(module.backbone.trainable_tail()))


def step(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, float]:
    """The losses of one step: `con`, `pp`, `np` and their sum `loss`."""
    module, logged = create(COFT, **options), {}

    def log(values: dict[str, Tensor]) -> None:
        logged.update({name.removeprefix("train/"): value.item() for name, value in values.items()})

    monkeypatch.setattr(module, "log_dict", log)  # there is no trainer
    torch.manual_seed(0)
    assert module.training_step(views(num_images=4, num_views=2), 0).item() == logged["loss"]
    return logged


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({}, []),
        ({"contrast": "infonce"}, []),
        ({"contrast": "none"}, ["con"]),
        ({"cross_instance_weight": 0.0}, ["pp"]),
        ({"negative_weight": 0.0}, ["np"]),
        ({"contrast": "none", "cross_instance_weight": 0.0}, ["con", "pp"]),
    ],
)
def test_loss_terms_can_be_left_out(
    options: dict[str, Any], left_out: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = step(monkeypatch, **options)
    assert [name for name in ("con", "pp", "np") if losses[name] == 0] == left_out
    assert losses["loss"] == pytest.approx(losses["con"] + losses["pp"] + losses["np"])


def test_loss_terms_have_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = step(monkeypatch), step(monkeypatch, cross_instance_weight=2.0, negative_weight=3.0)
    assert many == pytest.approx(one | {"pp": 2 * one["pp"], "np": 3 * one["np"], "loss": many["loss"]}, rel=1e-4)


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_tail_is_trained_or_a_random_network(pretrained: bool, tiny_root: Path) -> None:
    module = create(COFT, steps=4, pretrained=pretrained)
    before, backbone = state(module.network), module.backbone
    start = backbone.trainable_tail() if pretrained else backbone
    assert before.keys() == state(start).keys()
    assert is_state(module.network, state(start)) == pretrained
    fit(module, tiny_root)
    assert not any(torch.equal(parameter, before[name]) for name, parameter in module.network.named_parameters())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"families \['mud'\]: choose one or more of"):
        create(COFT, negatives=["mud"])
    with pytest.raises(ValueError, match=r"negative_weight=-1\.0: need 0 or more"):
        create(COFT, negative_weight=-1.0)
    with pytest.raises(ValueError, match="max_patches=0"):
        create(COFT, max_patches=0)
