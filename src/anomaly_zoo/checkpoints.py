"""A module that its checkpoint rebuilds. It holds plain numbers and tensors; loading unpickles no code."""

import inspect
from abc import ABCMeta
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as L
import torch

from anomaly_zoo.nn.backbone import Backbone

Module = TypeVar("Module", bound="Rebuildable")


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
        """Adds what rebuilds the module."""
        checkpoint["backbone"] = self.backbone_spec
        checkpoint["init_args"] = self._init_args

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gives every buffer that was fitted to the support the shape it has in the checkpoint."""
        for name, buffer in self.named_buffers():
            if name in checkpoint["state_dict"]:
                buffer.resize_(checkpoint["state_dict"][name].shape)

    @classmethod
    def load_from_checkpoint(cls: type[Module], checkpoint_path: str | Path, **kwargs: Any) -> Module:  # type: ignore[override]
        """Rebuilds the module as it was saved: the same scores to the last bit.

        Args:
            checkpoint_path: a file written by `Trainer.save_checkpoint`.
            **kwargs: constructor arguments that replace the saved ones.
        """
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        kwargs = checkpoint["init_args"] | kwargs
        kwargs.setdefault("backbone", Backbone(**checkpoint["backbone"], weights="none"))
        return super().load_from_checkpoint(checkpoint_path, weights_only=True, **kwargs)
