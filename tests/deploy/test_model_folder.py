import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_zoo.deploy.model_folder import RECORD, TENSORS, Model, load, save
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from anomaly_zoo.methods.memory import PatchCore
from anomaly_zoo.nn.backbone import Backbone
from tests.deploy.conftest import METHODS


@pytest.fixture
def folder(model: Model, tmp_path: Path) -> Path:
    save(model, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, sealed: bool = True, **changes: Any) -> None:
    """Changes the record; `sealed` as somebody would who knows how the hash is made."""
    values = json.loads((folder / RECORD).read_text()) | changes
    if sealed:
        values.pop("sha256")
        values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (folder / RECORD).write_text(json.dumps(values))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back_to_the_last_bit(
    method: str, model_of: Callable[..., Model], images: list[np.ndarray], tmp_path: Path
) -> None:
    saved = model_of(method)
    save(saved, tmp_path)
    loaded = load(tmp_path)
    assert replace(loaded, module=saved.module, versions=None) == replace(saved, versions=None)
    assert not loaded.module.training
    assert getattr(loaded.module, "pruned", None) == getattr(saved.module, "pruned", None)
    found = [TorchInspector(model).inspect(images) for model in (saved, loaded)]
    for first, second in zip(*found, strict=True):
        assert (first.image_score, first.p_value) == (second.image_score, second.p_value)
        assert (first.anomaly_map == second.anomaly_map).all()


def test_what_a_method_adds_to_its_checkpoint_comes_back_as_it_was(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = {"history": [("conv", True, [1, 2]), ()], "ratio": 0.5, "none": None, "nested": {"a": (1, [2.0])}}
    read: list[Any] = []
    plain_save, plain_load = PatchCore.on_save_checkpoint, PatchCore.on_load_checkpoint

    def saving(module: PatchCore, checkpoint: dict[str, Any]) -> None:
        plain_save(module, checkpoint)
        checkpoint["pruning"] = added

    def loading(module: PatchCore, checkpoint: dict[str, Any]) -> None:
        plain_load(module, checkpoint)
        read.append(checkpoint["pruning"])

    monkeypatch.setattr(PatchCore, "on_save_checkpoint", saving)
    monkeypatch.setattr(PatchCore, "on_load_checkpoint", loading)
    save(model, tmp_path)
    load(tmp_path)
    assert read == [added]


def test_it_says_where_it_comes_from(folder: Path, tiny_root: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    assert record["class_path"] == "anomaly_zoo.methods.memory.PatchCore"
    assert len(record["support"]) == 4
    assert all((tiny_root / path).is_file() for path in record["support"])
    assert record["versions"].keys() >= {"anomaly_zoo", "torch", "timm", "python"}
    assert len(record["calibration"]["image_scores"]) == 4


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path, model: Model) -> None:
    save(replace(model, category="other"), folder)
    assert load(folder).category == "other"
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, TENSORS]


@pytest.mark.parametrize("name", [RECORD, TENSORS])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "grown"])
def test_damaged_files_are_refused(folder: Path, name: str, damage: str) -> None:
    content = bytearray((folder / name).read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-100], "empty": bytearray(), "grown": content + b" {}", "flipped": content}
    (folder / name).write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=rf"{name} .*write the folder anew with `fit --output`"):
        load(folder)


def test_a_threshold_changed_by_hand_is_refused(folder: Path) -> None:
    calibration = json.loads((folder / RECORD).read_text())["calibration"]
    edit(folder, sealed=False, calibration=calibration | {"threshold": 99.0})
    with pytest.raises(ValueError, match=r"model.json is damaged or was changed"):
        load(folder)


OURS = ("anomaly_zoo.methods.this.X", "anomaly_zoo.methods.coft.Backbone", "anomaly_zoo.methods.coft.synthesize")


@pytest.mark.parametrize("name", ["os.system", "this.s", "tests.toy.Toy", "anomaly_zoo.bench.main", *OURS])
def test_only_methods_of_the_package_are_constructed(folder: Path, name: str) -> None:
    sys.modules.pop("this", None)
    edit(folder, class_path=name)
    with pytest.raises(ValueError, match=r"is not one of anomaly_zoo.methods|has no method|is not a method"):
        load(folder)
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema": 3}, "was written by an earlier version (schema 3): write the folder anew with `fit --output`."),
        ({"schema": 5}, "has schema 5, this version reads 4: upgrade"),
        ({"image_shape": "64"}, "does not hold the fields"),
        ({"image_shape": [0, 64]}, r"image_shape=(0, 64)"),
        ({"extra": 1}, "does not hold the fields"),
        ({"backbone": {"name": "resnet18", "stages": [1], "scales": [1.0], "weights": "evil.pth"}}, "evil.pth"),
        ({"backbone": {"name": "resnet18", "stages": [1, 2], "scales": [1.0]}}, "does not fit this version"),
        ({"init_args": {"command": "true"}}, "does not fit this version"),
        ({"calibration": {}}, "does not hold the fields of schema 4 (Object missing required field `false_alarm_rate`"),
        ({"tiling": {"shape": [64, 64], "tile_px": 65}}, "tile_px is 65"),
    ],
)
def test_a_record_that_says_something_else_is_refused(folder: Path, changes: dict[str, Any], named: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ValueError, match=re.escape(named)) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


def test_a_pickle_is_no_tensors(folder: Path) -> None:
    torch.save(nn.Linear(1, 1), folder / TENSORS)
    edit(folder, tensors_sha256=hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest())
    with pytest.raises(ValueError, match=r"does not fit this version .*header.*: write the folder anew"):
        load(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no model folder \(model.json is missing\)"):
        load(tmp_path / "nowhere")
    (folder / TENSORS).unlink()
    with pytest.raises(ValueError, match=rf"{TENSORS} is missing"):
        load(folder)


def test_a_method_from_elsewhere_is_not_saved(model: Model, tmp_path: Path) -> None:
    class Elsewhere(PatchCore):
        pass

    module = Elsewhere(Backbone("resnet18", stages=[1], weights="none"))
    with pytest.raises(ValueError, match=r"tests.deploy.test_model_folder.*Elsewhere cannot be saved"):
        save(replace(model, module=module), tmp_path)
    assert not list(tmp_path.iterdir())
