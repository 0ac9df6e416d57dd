"""A model folder: everything that an adapted method needs to inspect images, and nothing that runs when it is read.

    model/
      tensors.safetensors    the module's parameters and buffers
      model.json             method, backbone, versions, support, held-out scores, threshold; SHA-256 of both files

The hashes find what was damaged or changed by hand. They are no signature: whoever can write the folder can write new
hashes as well.
"""

import hashlib
import importlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from anomaly_zoo import __version__
from anomaly_zoo.deploy.calibration import Calibration
from anomaly_zoo.files import write_whole
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.tiling import Tiling
from anomaly_zoo.results import unwritable

TENSORS = "tensors.safetensors"
RECORD = "model.json"
SCHEMA = 4
MAX_RECORD_BYTES = 2**24
_CLASS = re.compile(r"anomaly_zoo\.methods\.[a-z_][a-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
_KEPT = ("calibration", "image_shape", "tiling", "category", "support", "support_sha256", "versions", "warnings")
_AGAIN = "write the folder anew with `fit --output`"


@dataclass(frozen=True)
class Model:
    """An adapted module, and what makes a decision of its scores."""

    module: AnomalyModule  # in evaluation mode, on the CPU
    calibration: Calibration
    image_shape: tuple[int, int]  # height and width in pixels that images are resized to
    tiling: Tiling | None = None
    category: str = ""  # the product's name
    support: tuple[str, ...] = ()  # the support images' paths in the dataset
    support_sha256: str = ""  # of these paths, as in a result
    versions: dict[str, str] | None = None  # of the packages that it was adapted with
    warnings: tuple[str, ...] = ()  # why the threshold cannot keep its promise, and what to do

    @property
    def method(self) -> str:
        """Class name of the method."""
        return type(self.module).__name__


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """What `model.json` holds, field by field."""

    schema: int
    class_path: str
    init_args: dict[str, Any]
    backbone: dict[str, Any]
    checkpoint: dict[str, Any]
    image_shape: tuple[int, int]
    tiling: Tiling | None
    category: str
    support: tuple[str, ...]
    support_sha256: str
    calibration: Calibration
    versions: dict[str, str]
    warnings: tuple[str, ...]
    tensors_sha256: str


def save(model: Model, folder: Path) -> None:
    """Writes a model folder, replacing an earlier one; ValueError if it cannot hold the method or what this keeps."""
    class_path = class_path_of(model.module)
    checkpoint = _checkpoint(model.module)
    tensors = {name: value.contiguous().clone() for name, value in checkpoint.pop("state_dict").items()}
    content = safetensors.torch.save(tensors)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "class_path": class_path,
        "init_args": checkpoint.pop("init_args"),
        "backbone": checkpoint.pop("backbone"),
        "checkpoint": _marked(checkpoint),
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
        **{name: getattr(model, name) for name in _KEPT},
        "tiling": asdict(model.tiling) if model.tiling else None,
        "calibration": asdict(model.calibration),
        "versions": model.versions or _versions(),
    }
    if problem := next(unwritable(record), None):
        raise ValueError(f"{class_path} cannot be saved in a model folder: {problem}.")
    (folder / RECORD).unlink(missing_ok=True)  # it makes the folder valid: never beside the tensors of another
    write_whole(folder / TENSORS, content)
    sealed = record | {"sha256": _digest(record)}
    write_whole(folder / RECORD, (json.dumps(sealed, indent=1, allow_nan=False) + "\n").encode())


def class_path_of(module: AnomalyModule) -> str:
    """The name of its class; ValueError if a model folder cannot hold it."""
    class_path = f"{type(module).__module__}.{type(module).__qualname__}"
    if not _CLASS.fullmatch(class_path):
        raise ValueError(f"{class_path} cannot be saved in a model folder: only methods in anomaly_zoo.methods can.")
    return class_path


def load(folder: Path) -> Model:
    """Reads a model folder, or says in a ValueError or OSError what it is instead. Nothing in it is run."""
    record = _read_record(folder / RECORD)
    try:
        content = (folder / TENSORS).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / TENSORS} is missing ({error.strerror}): {_AGAIN}.") from None
    if hashlib.sha256(content).hexdigest() != record.tensors_sha256:
        raise ValueError(f"{folder / TENSORS} is damaged or was changed: {_AGAIN}.")
    method, known = _method(record.class_path), {"backbone": record.backbone, "init_args": record.init_args}
    try:
        known["state_dict"] = safetensors.torch.load(content)
        module = _rebuild(method, known | _unmarked(record.checkpoint))
    except (TypeError, LookupError, RuntimeError, AttributeError, ValueError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(f"{folder} does not fit this version ({reason}): {_AGAIN}.") from error
    return Model(module, **{name: getattr(record, name) for name in _KEPT})


def copy_of(module: AnomalyModule) -> AnomalyModule:
    """The same module once more, in evaluation mode, on the CPU, without its trainer."""
    return _rebuild(type(module), _checkpoint(module))


def _checkpoint(module: AnomalyModule) -> dict[str, Any]:
    """Its tensors on the CPU, and what its `on_save_checkpoint` adds."""
    tensors: dict[str, Tensor] = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    checkpoint: dict[str, Any] = {"state_dict": tensors}
    module.on_save_checkpoint(checkpoint)
    del checkpoint["adapted"]  # a model says it in its own words
    return checkpoint


def _rebuild(method: type[AnomalyModule], checkpoint: dict[str, Any]) -> AnomalyModule:
    with torch.random.fork_rng(devices=[]):  # what is initialised here is replaced
        module = method(Backbone(**checkpoint["backbone"], weights="none"), **checkpoint["init_args"])
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval()


def _read_record(path: Path) -> _Record:
    if not path.is_file():
        found = "it is a file" if path.parent.is_file() else f"{path.name} is missing"
        raise FileNotFoundError(f"{path.parent} is no model folder ({found}): pass one of `fit --output`.")
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than {MAX_RECORD_BYTES}: {_AGAIN}.")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error}): {_AGAIN}.") from None
    if not isinstance(values, dict) or "schema" not in values:
        raise ValueError(f"{path} holds something else ({str(values)[:60]}): {_AGAIN}.")
    schema = values["schema"]
    if isinstance(schema, int) and schema < SCHEMA:
        raise ValueError(f"{path.parent} was written by an earlier version (schema {schema}): {_AGAIN}.")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}: upgrade anomaly_zoo.")
    if values.pop("sha256", None) != _digest(values):
        raise ValueError(f"{path} is damaged or was changed: {_AGAIN}.")
    try:
        record = msgspec.convert(values, _Record)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} does not hold the fields of schema {SCHEMA} ({error}): {_AGAIN}.") from None
    if record.backbone.keys() != {"name", "stages", "scales"} or min(record.image_shape) < 1:
        raise ValueError(f"{path}: backbone={record.backbone}, image_shape={record.image_shape}: {_AGAIN}.")
    return record


def _marked(value: Any) -> Any:
    """The same with tuples as `{"tuple": [...]}`: JSON would turn them into lists."""
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_marked(item) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    return value


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if isinstance(value, dict) and value.keys() == {"tuple"}:
        return tuple(_unmarked(value["tuple"]))
    return {key: _unmarked(item) for key, item in value.items()} if isinstance(value, dict) else value


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _method(class_path: str) -> type[AnomalyModule]:
    """The class of a method of this package; the name of anything else is refused before anything is imported."""
    if not _CLASS.fullmatch(class_path):
        raise ValueError(f"the method {class_path!r} is not one of anomaly_zoo.methods.")
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise ValueError(f"this version has no method {class_path!r}: install the version that wrote it.") from None
    if not (isinstance(found, type) and issubclass(found, AnomalyModule) and found.__module__ == module):
        raise ValueError(f"{class_path!r} is not a method.")
    return found


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "safetensors")}
    return {"anomaly_zoo": __version__, "python": platform.python_version()} | packages
