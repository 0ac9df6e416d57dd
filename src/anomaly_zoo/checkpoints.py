"""A module that its checkpoint rebuilds. It holds plain numbers and tensors; loading unpickles no code."""

import inspect
import zipfile
from abc import ABCMeta
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch

from anomaly_zoo.nn.backbone import Backbone

Module = TypeVar("Module", bound="Rebuildable")

_DATA = ("category", "shots", "seed", "image_size", "shape", "tile_px", "overlap_px")


def read_checkpoint(path: Path, method: str) -> dict[str, Any]:
    """Reads a file that `fit` wrote for a method: FileNotFoundError or ValueError say what it is instead."""
    wanted = "pass the adapted.ckpt that `fit` wrote."
    if not path.is_file():
        found = f"{path} is a folder, no checkpoint" if path.is_dir() else f"there is no checkpoint {path}"
        raise FileNotFoundError(f"{found}: {wanted}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # half a dozen kinds, with pages of advice
        is_code = "GLOBAL" in str(error) or path.read_bytes().startswith(b"\x80")
        found = "Python objects, which are never loaded" if is_code else "no whole checkpoint"
        raise ValueError(f"{path} holds {found} ({path.stat().st_size} bytes): {wanted}") from None
    names = checkpoint.keys() if isinstance(checkpoint, dict) else {type(checkpoint).__name__: None}.keys()
    if not {"state_dict", "backbone", "init_args", "adapted"} <= names:
        raise ValueError(f"{path} holds something else ({', '.join(map(str, names))[:60]} ...): {wanted}")
    if (found := checkpoint["adapted"]["method"]) != method:
        raise ValueError(f"{path} holds a {found}, not a {method}: pass the --config of its `fit`.")
    return dict(checkpoint)


class _NotesArguments(ABCMeta):
    """Notes the constructor's arguments but the backbone, which rebuild the module from a checkpoint.

    Lightning's `save_hyperparameters` looks through the callers, and misses them where a decorator stands between.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        module = super().__call__(*args, **kwargs)
        signature = inspect.signature(type(module).__init__)
        bound = signature.bind(module, *args, **kwargs)
        bound.apply_defaults()
        others = {"self", "backbone"} | {p.name for p in signature.parameters.values() if p.kind == p.VAR_KEYWORD}
        given = bound.arguments | kwargs
        module._init_args = {name: value for name, value in given.items() if name not in others}
        return module


class Rebuildable(L.LightningModule, metaclass=_NotesArguments):
    """Saves its constructor's arguments and the backbone's architecture beside its state."""

    backbone_spec: dict[str, Any]
    _init_args: dict[str, Any]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what rebuilds the module, and the data that it was adapted to."""
        checkpoint["backbone"] = self.backbone_spec
        checkpoint["init_args"] = self._init_args
        data = getattr(self._trainer, "datamodule", None)
        known = {name: getattr(data, name) for name in _DATA if hasattr(data, name)}
        checkpoint["adapted"] = {"method": type(self).__name__, **known}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives every buffer that was fitted to the support the shape it has in the checkpoint."""
        for name, buffer in self.named_buffers():
            if name in checkpoint["state_dict"]:
                buffer.resize_(checkpoint["state_dict"][name].shape)

    def load(self, path: Path, data: L.LightningDataModule) -> None:
        """Takes the state of a checkpoint; ValueError if it is something else, or of other options or other data."""
        checkpoint = read_checkpoint(path, type(self).__name__)
        parts = {
            "data.": (checkpoint["adapted"], {name: getattr(data, name) for name in _DATA}),
            "backbone.": (checkpoint["backbone"], self.backbone_spec),
            "model.init_args.": (checkpoint["init_args"], self._init_args),
        }
        asked = [(part + name, was.get(name), now[name]) for part, (was, now) in parts.items() for name in now]
        if other := [f"{name}={was} (not {now})" for name, was, now in asked if was != now]:
            shown = ", ".join(other[:3]) + (" ..." if len(other) > 3 else "")
            raise ValueError(f"{path} was adapted with {shown}: pass the same options as to its `fit`.")
        try:
            self.on_load_checkpoint(checkpoint)
            self.load_state_dict(checkpoint["state_dict"])
        except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{path} is no whole {type(self).__name__} ({reason}): adapt anew with `fit`.") from None

    @classmethod
    def load_from_checkpoint(cls: type[Module], checkpoint_path: str | Path, **kwargs: Any) -> Module:  # type: ignore[override]
        """Rebuilds the module as it was saved: the same scores to the last bit. `kwargs` replace saved arguments."""
        checkpoint = read_checkpoint(Path(checkpoint_path), cls.__name__)
        kwargs = checkpoint["init_args"] | kwargs
        kwargs.setdefault("backbone", Backbone(**checkpoint["backbone"], weights="none"))
        return super().load_from_checkpoint(checkpoint_path, weights_only=True, **kwargs)
