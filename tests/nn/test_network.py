from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from anomaly_zoo.nn.network import IMAGES_AT_ONCE, Network, stages_of
from anomaly_zoo.nn.weights import load_weights

SMALL = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit")  # timm's, for tests: below 0.4 M parameters
LATER_BLOCKS = (*(f"blocks.{i}" for i in range(3, 7)), "conv_head", "bn2", "classifier")

# name: default stages, their channels, their strides, and what of timm's model the first of them does not need
ARCHITECTURES: dict[str, tuple[list[int], list[int], list[int], tuple[str, ...]]] = {
    "tf_efficientnet_lite0": ([2, 3, 4], [40, 112, 320], [8, 16, 32], LATER_BLOCKS),
    "tf_efficientnet_lite1": ([2, 3, 4], [40, 112, 320], [8, 16, 32], LATER_BLOCKS),
    "tf_efficientnet_lite2": ([2, 3, 4], [48, 120, 352], [8, 16, 32], LATER_BLOCKS),
    "wide_resnet50_2": ([2, 3, 4], [512, 1024, 2048], [8, 16, 32], ("layer3", "layer4", "fc")),
    "tf_efficientnet_b4": ([2, 3, 4], [56, 160, 448], [8, 16, 32], LATER_BLOCKS),
    "convnext_tiny": ([1, 2, 3], [192, 384, 768], [8, 16, 32], ("stages.2", "stages.3", "head")),
    "vit_small_patch14_dinov2": ([6, 10], [384, 384], [14, 14], tuple(f"blocks.{i}." for i in range(7, 12))),
}
LITE = [name for name in ARCHITECTURES if "lite" in name]
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name not in LITE]


def images(height: int = 64, width: int = 64, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [*LITE, *LARGE])
def test_default_stages(name: str) -> None:
    stages, num_channels, strides, _ = ARCHITECTURES[name]
    backbone = Network(name, weights="none")
    assert (backbone.stages, backbone.num_channels) == (stages, num_channels)
    height, width = 4 * max(strides), 6 * max(strides)
    with torch.inference_mode():
        features = backbone(images(height, width, count=1))
    expected = [(1, c, height // stride, width // stride) for c, stride in zip(num_channels, strides, strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected


@pytest.mark.parametrize("name", [*LITE, *LARGE])
def test_parameters_after_the_last_stage_are_left_out(name: str) -> None:
    (first, *_), (num_channels, *_), _, needless = ARCHITECTURES[name]
    backbone = Network(name, [first], weights="none")
    whole = timm.create_model(name, pretrained=False).state_dict().keys()
    kept = {key for key in whole if not key.startswith(needless)}
    assert len(kept) < len(whole)
    parts = [part for part in (backbone.trunk_layers, backbone.tail) if part]
    assert {key for part in parts for key in part.model.state_dict()} == kept
    assert sum(len(part.model.state_dict()) for part in parts) == len(kept)
    with torch.inference_mode():
        assert [feature.shape[1] for feature in backbone(images(count=1))] == [num_channels]


@pytest.mark.parametrize("name", [*SMALL, "resnet18"])
@pytest.mark.parametrize("stages", [[0], [1, 3], [0, 1, 2, 3]])
def test_features_are_those_of_timm_on_the_normalised_image(tmp_path: Path, name: str, stages: list[int]) -> None:
    reference: Any = timm.create_model(name, pretrained=False).eval()
    for value in reference.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=torch.Generator().manual_seed(1)))
    safetensors.torch.save_file(reference.state_dict(), tmp_path / "own.safetensors")
    mean, std = (torch.tensor(reference.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    image = images(160, 160)
    with torch.inference_mode():
        features = Network(name, stages, str(tmp_path / "own.safetensors"))(image)
        _, expected = reference.forward_intermediates((image - mean) / std, indices=stages, norm="vit" in name)
    assert len(features) == len(stages)
    for ours, theirs in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tf_efficientnet_lite0", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("resnet50_clip", [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    ],
)
def test_mean_and_spread_are_those_of_the_model(name: str, mean: list[float], std: list[float]) -> None:
    backbone = Network(name, weights="none")
    torch.testing.assert_close(backbone.mean.flatten(), torch.tensor(mean))
    torch.testing.assert_close(backbone.std.flatten(), torch.tensor(std))


@pytest.mark.parametrize(
    ("size", "grid"),
    [((64, 64), (4, 4)), ((100, 70), (6, 4)), ((40, 16), (2, 1)), ((7, 30), (1, 2)), ((224, 161), (14, 10))],
)
def test_a_vit_takes_any_size(size: tuple[int, int], grid: tuple[int, int]) -> None:
    backbone = Network("test_vit", weights="none")
    with torch.inference_mode():
        features = backbone(images(*size))
    assert [feature.shape[2:] for feature in features] == [grid, grid]
    assert all(feature.isfinite().all() for feature in features)


def test_a_vit_covers_the_whole_of_an_image_that_its_patches_do_not_tile() -> None:
    backbone = Network("test_vit", weights="none")
    image = images(71, 71, count=1)
    changed = image.clone()
    changed[..., -1, -1] = 1 - changed[..., -1, -1]
    with torch.inference_mode():
        difference = (backbone(image)[0] - backbone(changed)[0]).abs().sum(dim=1)[0]
    assert difference.argmax() == difference.numel() - 1


@pytest.mark.parametrize("name", SMALL)
def test_training_leaves_mode_and_statistics_alone_and_reaches_the_stem(name: str) -> None:
    torch.manual_seed(0)
    backbone = Network(name, weights="none")
    parent = nn.Sequential(backbone, nn.Identity()).train()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)  # timm starts the last scale of a residual branch with 0
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    sum(feature.square().mean() for feature in backbone(images())).backward()
    assert parent.training
    assert not any(module.training for module in backbone.modules() if module is not backbone)
    assert all(torch.equal(value, before[key]) for key, value in backbone.named_buffers())
    assert [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_many_images_give_the_features_of_each() -> None:
    backbone, image = Network("test_resnet", weights="none"), images(count=2 * IMAGES_AT_ONCE + 3)
    stages = stages_of(backbone, image)
    assert not any(stage.requires_grad for stage in stages)
    for number in (0, IMAGES_AT_ONCE, len(image) - 1):
        with torch.no_grad():
            alone = backbone(image[number : number + 1])
        for stage, expected in zip(stages, alone, strict=True):
            assert len(stage) == len(image)
            torch.testing.assert_close(stage[number : number + 1], expected)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "resnet18"),
        ("wideresnet50_2", "wide_resnet50_2"),
        ("tf_efficientnet_lite_0", "tf_efficientnet_lite0"),
    ],
)
def test_an_unknown_name_suggests_near_ones(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone '{name}' is not a timm model\. Did you mean .*\b{near}\b.*\?$"):
        Network(name, weights="none")


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(ValueError, match=r"backbone '=' is not a timm model\.$"):
        Network("=", weights="none")


@pytest.mark.parametrize(("name", "last"), [("test_resnet", 4), ("test_convnext", 3), ("test_vit", 5)])
def test_stages_that_the_model_does_not_have(name: str, last: int) -> None:
    for stages in ([], [-1], [0, last + 1]):
        with pytest.raises(ValueError, match=rf"of {name}: choose among 0 to {last}\."):
            Network(name, stages, weights="none")
    assert Network(name, [last], weights="none").stages == [last]


def test_stages_come_sorted_and_once() -> None:
    backbone = Network("test_resnet", (3, 1, 3), weights="none")
    assert backbone.stages == [1, 3]
    assert [feature.shape[1] for feature in backbone(images())] == backbone.num_channels


def test_random_weights_must_be_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match="pre-trained weights for test_resnet"):
        Network("test_resnet")


@pytest.mark.parametrize(
    ("name", "first", "early", "trained"),
    [
        ("tf_efficientnet_lite0", 2, ["conv_stem", "bn1", "blocks.0", "blocks.1"], ["blocks.2", "blocks.6"]),
        ("tf_efficientnet_lite0", 1, ["conv_stem", "bn1", "blocks.0"], ["blocks.1", "blocks.6"]),
        ("resnet18", 2, ["conv1", "bn1", "layer1"], ["layer2", "layer4"]),
        ("convnext_atto", 1, ["stem", "stages.0"], ["stages.1", "stages.3"]),
    ],
)
def test_the_trunk_are_the_layers_before_the_first_stage(
    name: str, first: int, early: list[str], trained: list[str]
) -> None:
    backbone = Network(name, [first, 3 if "convnext" in name else 4], weights="none")
    assert backbone.trunk_layers is not None
    assert backbone.trunk_layers.stages == list(range(first))
    for part, names in ((backbone.trunk_layers, early), (backbone.tail, trained)):
        found = {name for name in early + trained for key in part.model.state_dict() if key.startswith(f"{name}.")}
        assert found == set(names)
    tail = backbone.trainable_tail()
    assert all(parameter.requires_grad for parameter in tail.parameters())
    with torch.no_grad():
        for stage, expected in zip(tail(backbone.trunk(images())[-1]), backbone(images()), strict=True):
            torch.testing.assert_close(stage, expected)
    assert not any(p.is_set_to(other) for p in tail.parameters() for other in backbone.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "test_convnext"])
def test_frozen_layers_are_folded_while_others_train(name: str) -> None:
    backbone = Network(name, weights="none").requires_grad_(False)
    assert not any(stage.requires_grad for stage in backbone(images()))
    assert all(stage.requires_grad for stage in backbone.trainable_tail()(backbone.trunk(images())[-1]))


@pytest.mark.parametrize("name", ["resnetv2_50", "swin_tiny_patch4_window7_224"])
def test_layers_that_do_not_come_one_after_the_other_are_not_parted(name: str) -> None:
    backbone = Network(name, [2], weights="none")
    assert backbone.trunk_layers is None
    with torch.no_grad():
        (x,) = backbone.trunk(images(224, 224, count=1))
    torch.testing.assert_close(x, (images(224, 224, count=1) - backbone.mean) / backbone.std)


def test_without_a_trunk_what_comes_before_the_first_stage_is_frozen() -> None:
    for all_levels in (False, True):
        tail = Network("test_vit", [3, 5], weights="none").trainable_tail(all_levels)
        frozen = {key for key, parameter in tail.model.named_parameters() if not parameter.requires_grad}
        before = ("cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1", "blocks.2")
        assert frozen == {key for key, _ in tail.model.named_parameters() if key.startswith(before)}


@pytest.mark.parametrize(
    ("name", "stages", "weights", "num_channels"),
    [
        ("tf_efficientnet_lite0", None, "none", [16, 24, 40, 112, 320, 1280]),
        ("tf_efficientnet_lite0", None, "auto", [16, 24, 40, 112, 320, 1280]),
        ("tf_efficientnet_lite0", [1, 3], "auto", [16, 24, 40, 112]),  # the head is beyond the last stage in use
        ("resnet18", None, "none", [64, 64, 128, 256, 512]),
        ("test_resnet", [1], "none", [32, 32]),
        ("test_vit", [2, 4], "none", [64] * 5),
    ],
)
def test_all_levels_go_from_the_stem_to_the_head(
    name: str, stages: list[int] | None, weights: str, num_channels: list[int]
) -> None:
    backbone = Network(name, stages, weights)
    tail = backbone.trainable_tail(all_levels=True)
    num_early = len(backbone.trunk_layers.stages) if backbone.trunk_layers else 0
    assert tail.stages == list(range(num_early, len(num_channels)))
    for grad in (False, True):  # folded, and as they are trained
        with torch.set_grad_enabled(grad):
            trunk = backbone.trunk(images())
            found, shared = trunk[:num_early] + tail(trunk[-1]), backbone(images())
        assert [feature.shape[1] for feature in found] == num_channels
        for stage, feature in zip(backbone.stages, shared, strict=True):
            torch.testing.assert_close(found[stage], feature, rtol=1e-4, atol=1e-4 * feature.abs().max().item())
    assert all(not parameter.is_set_to(other) for parameter in tail.parameters() for other in backbone.parameters())


def test_the_head_is_that_of_timm() -> None:
    backbone = Network("tf_efficientnet_lite0")
    reference: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    load_weights(reference, "tf_efficientnet_lite0", "auto")
    with torch.no_grad():
        head = backbone.trainable_tail(all_levels=True)(backbone.trunk(images())[-1])[-1]
        expected = reference.forward_features((images() - backbone.mean) / backbone.std)
    torch.testing.assert_close(head, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_head_that_the_weights_lack_is_no_level(tmp_path: Path) -> None:
    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    trunk = {key: value for key, value in state.items() if not key.startswith(("conv_head", "bn2", "classifier"))}
    safetensors.torch.save_file(trunk, tmp_path / "trunk.safetensors")
    levels = Network("tf_efficientnet_lite0", weights=str(tmp_path / "trunk.safetensors"))
    assert levels.trainable_tail(all_levels=True).stages == [2, 3, 4]
