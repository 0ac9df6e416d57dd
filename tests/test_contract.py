"""What every method in configs/methods promises, whatever it does inside."""

import functools
import inspect
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import faiss
import lightning.pytorch as L
import pytest
import torch
import yaml
from torch import Tensor, nn

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.config import AnomalyCLI, build, method_files, resolve
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.scoring import Scorer
from anomaly_zoo.types import Distances

METHODS = sorted(method_files())
PAPERS = [name for name in METHODS if name.endswith("_paper")]
QUICK = {"steps": 3}


def tiny_config(method: str, root: Path, shots: int = 4) -> dict[str, Any]:
    options = [f"--data.root={root}", "--data.category=alpha", f"--data.shots={shots}", "--data.image_size=64"]
    options += ["--data.test_batch_size=3", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    config = resolve(method, options)
    arguments = config["model"]["init_args"]
    arguments |= {key: min(value, arguments[key]) for key, value in QUICK.items() if key in arguments}
    return config


class _Gradients(L.Callback):
    """Remembers the losses, which parameters a gradient other than 0 has reached, and which ones moved at any time."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []
        self.reached: set[str] = set()
        self.moved: set[str] = set()  # a method may go back to an earlier state at the end

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After `prepare`, which may prune."""
        self.before = {name: value.detach().clone().cpu() for name, value in pl_module.state_dict().items()}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any) -> None:
        self.losses.append(outputs["loss"])
        for name, parameter in pl_module.named_parameters():
            if not torch.equal(parameter.cpu(), self.before[name]):
                self.moved.add(name)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any():
                self.reached.add(name)


class Adapted:
    """A method after `fit` and `test` on the tiny dataset, its state before, and what was held out of the support."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.cli: AnomalyCLI = build(config)
        self.module: AnomalyModule = self.cli.model
        self.before = {name: value.clone() for name, value in self.module.state_dict().items()}
        self.gradients = _Gradients()
        self.held_out: list[Distances] = []
        fit = Scorer.fit

        def noted(scorer: Scorer, groups: Any) -> None:
            self.held_out = list(groups)
            fit(scorer, groups)

        self.cli.trainer.callbacks.append(self.gradients)  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Scorer, "fit", noted)
            self.cli.trainer.fit(self.module, datamodule=self.cli.datamodule)
        self.cli.trainer.test(self.module, datamodule=self.cli.datamodule, verbose=False)
        self.metrics = self.cli.evaluation.metrics
        self.images = torch.cat([batch.image for batch in self.cli.datamodule.test_dataloader()])
        self.module.eval()

    @torch.no_grad()
    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map, image_score = self.module(images)
        return anomaly_map, image_score

    @property
    def trainable(self) -> set[str]:
        return {name for name, parameter in self.module.named_parameters() if parameter.requires_grad}


@functools.cache
def _adapted(method: str, root: Path) -> Adapted:
    return Adapted(tiny_config(method, root))


@pytest.fixture(params=METHODS)
def adapted(request: pytest.FixtureRequest, tiny_root: Path) -> Adapted:
    return _adapted(request.param, tiny_root)


# Training


def test_training_reaches_every_trainable_parameter(adapted: Adapted) -> None:
    assert adapted.gradients.reached == (adapted.trainable if adapted.module.steps else set())
    assert len(adapted.gradients.losses) == adapted.module.steps
    assert all(loss.isfinite() for loss in adapted.gradients.losses)


def test_only_trainable_parameters_move(adapted: Adapted) -> None:
    fitted = {name for name, _ in adapted.module.named_buffers() if not name.startswith(("backbone.", "network."))}
    after, before = adapted.module.state_dict(), adapted.gradients.before
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved | adapted.gradients.moved <= adapted.trainable | fitted
    assert adapted.gradients.moved == (adapted.trainable if adapted.module.steps else set())


def test_the_backbone_stays_as_it_was(adapted: Adapted) -> None:
    after = adapted.module.state_dict()
    frozen = [name for name in adapted.before if name.startswith("backbone.")]
    assert frozen
    assert all(torch.equal(adapted.before[name], after[name]) for name in frozen)
    assert not any(name.startswith("backbone.") for name in adapted.trainable)


def test_statistics_of_batch_normalisation_stay_as_they_were(adapted: Adapted) -> None:
    after, before = adapted.module.state_dict(), adapted.gradients.before
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_a_training_says_that_weights_moved(adapted: Adapted) -> None:
    record = adapted.module.training_record()
    if not adapted.module.steps:
        assert record == {}
        return
    assert (record["steps"], record["kept_step"]) == (QUICK["steps"], QUICK["steps"])
    assert 0 < record["weights_moved"] < 1


# Scores


def test_state_lies_in_parameters_and_buffers(adapted: Adapted) -> None:
    assert list(_loose_tensors(adapted.module)) == []


def test_prediction_has_the_shape_of_the_images(adapted: Adapted) -> None:
    anomaly_map, image_score = adapted.scores(adapted.images)
    assert anomaly_map.shape == (len(adapted.images), 64, 64)
    assert image_score.shape == (len(adapted.images),)
    assert anomaly_map.isfinite().all()
    assert image_score.isfinite().all()


def test_score_does_not_depend_on_the_rest_of_the_batch(adapted: Adapted) -> None:
    together = adapted.scores(adapted.images)
    alone = [adapted.scores(image[None]) for image in adapted.images]
    for i, part in enumerate(together):
        torch.testing.assert_close(torch.cat([prediction[i] for prediction in alone]), part, rtol=1e-3, atol=1e-4)


def test_finds_a_trivial_defect(adapted: Adapted) -> None:
    assert adapted.metrics["image_auroc"] > 0.8
    assert adapted.metrics["pixel_auroc"] > 0.8
    assert adapted.metrics["aupro"] > 0.5


def test_same_seed_gives_the_same_scores_to_the_last_bit_whatever_the_test_labels(
    adapted: Adapted, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(adapted.cli.datamodule.root, root)
    test = root / "alpha" / "test"
    for old, new in (("good", "kept"), ("large", "good"), ("kept", "large")):  # normal becomes anomalous and vice versa
        (test / old).rename(test / new)
    again = Adapted(tiny_config(request.node.callspec.params["adapted"], root))
    mine = again.module.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in adapted.module.state_dict().items())
    renamed = {"good": "large", "large": "good", "small": "small"}
    scores = {_folder_and_name(image["path"]): image["score"] for image in again.cli.evaluation.images}
    for image in adapted.cli.evaluation.images:
        folder, name = _folder_and_name(image["path"])
        assert scores[renamed[folder], name] == image["score"]
    assert len(scores) == 9


@pytest.mark.parametrize("method", METHODS)
def test_plain_lightning_is_enough_and_a_checkpoint_gives_the_same_scores_to_the_last_bit(
    method: str, tiny_root: Path, tmp_path: Path
) -> None:
    model = resolve(method, [f"--data.root={tiny_root}", "--data.category=alpha"])["model"]
    cls = _class(model["class_path"])
    module = cls(Backbone(), **model["init_args"])
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    evaluation = EvaluationCallback()
    trainer = L.Trainer(max_steps=2, accelerator="cpu", callbacks=[evaluation], **options)
    data = MVTecDataModule(tiny_root, "alpha", shots=2, image_size=64)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == min(2, module.steps)
    trainer.test(module, datamodule=data, verbose=False)
    assert evaluation.metrics["image_auroc"] > 0.5
    trainer.save_checkpoint(tmp_path / "adapted.ckpt", weights_only=True)
    loaded = cls.load_from_checkpoint(tmp_path / "adapted.ckpt").eval()
    images = next(iter(data.test_dataloader())).image
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(images), module(images), strict=True))


def test_an_unadapted_module_says_so(tiny_root: Path) -> None:
    cli = build(tiny_config("patchcore", tiny_root))
    with pytest.raises(RuntimeError, match="not adapted yet"):
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)


# Held-out images


def test_every_support_image_is_held_out_and_gives_the_units(adapted: Adapted) -> None:
    _check_held_out(adapted, num_scores=4)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_support_image_is_enough(method: str, tiny_root: Path) -> None:
    single = Adapted(tiny_config(method, tiny_root, shots=1))
    assert single.metrics["image_auroc"] > 0.5
    assert all(prediction.isfinite().all() for prediction in single.scores(single.images))
    _check_held_out(single, num_scores=7)


def _check_held_out(adapted: Adapted, num_scores: int) -> None:
    module = adapted.module
    assert module.held_out_scores.shape == module.held_out_peaks.shape == (num_scores,)
    for held_out in (module.held_out_scores, module.held_out_peaks, module.held_out_level):
        assert held_out.isfinite().all()
    distances = [distance for group in adapted.held_out for distance in group.all()]
    assert bool(module.kept_out) == (module.steps > 0 and num_scores == 4)
    assert all(len(distance) == (len(module.kept_out) or num_scores) for distance in distances)
    in_units = torch.stack([distance.mean() for distance in distances]) / module.scorer.unit
    torch.testing.assert_close(in_units, torch.ones(len(distances)))
    torch.testing.assert_close(module.held_out_scores.mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


# The comparison: two rows differ by their method and by nothing else


def test_all_rows_have_the_same_memory(tiny_root: Path) -> None:
    memories = []
    for method in ("frozen", "pf", "coft", "gaussian"):
        state = _adapted(method, tiny_root).module.state_dict()
        memories.append({name: value for name, value in state.items() if name.startswith("memory.")})
    first, *others = memories
    assert first
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("paper", PAPERS)
def test_the_row_of_a_paper_differs_by_the_memory_alone(paper: str) -> None:
    files = method_files()
    whole, own = (yaml.safe_load(files[name].read_text()) for name in (paper.removesuffix("_paper"), paper))
    arguments = whole["model"].get("init_args", {})
    assert own == {"model": whole["model"] | {"init_args": arguments | {"memory": False}}}


@pytest.mark.parametrize("method", METHODS)
def test_a_row_states_nothing_that_is_the_default(method: str) -> None:
    model = yaml.safe_load(method_files()[method].read_text())["model"]
    defaults: dict[str, Any] = {}
    for cls in reversed(inspect.getmro(_class(model["class_path"]))):
        if issubclass(cls, AnomalyModule):
            parameters = inspect.signature(cls.__init__).parameters.values()
            defaults |= {parameter.name: parameter.default for parameter in parameters}
    for name, value in model.get("init_args", {}).items():
        assert defaults[name] != value, name


@pytest.mark.parametrize("method", ["coft", "frozen"])
def test_a_run_searches_its_memory_with_faiss(
    method: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At eight shots, with the views that a bench takes."""
    root = shutil.copytree(tiny_root, tmp_path / "tiny")
    for file in (root / "alpha" / "test" / "good").iterdir():
        shutil.copy(file, root / "alpha" / "train" / "good" / f"more_{file.name}")
    searched: list[tuple[int, int]] = []
    knn = faiss.knn

    def spy(queries: Any, rows: Any, *args: Any) -> Any:
        searched.append((len(queries), len(rows)))
        return knn(queries, rows, *args)

    monkeypatch.setattr(faiss, "knn", spy)
    module = Adapted(tiny_config(method, root, shots=8)).module
    num_patches, num_memories = [64, 16, 4], 2 if method == "coft" else 1
    rows = [min(8 * module.num_views * patches, module.max_patches) for patches in num_patches]
    of_test_images = [(3 * patches, row) for patches, row in zip(num_patches, rows, strict=True)] * num_memories
    assert sorted(searched[-len(of_test_images) :]) == sorted(of_test_images)


def _folder_and_name(path: str) -> tuple[str, str]:
    return Path(path).parent.name, Path(path).name


def _class(path: str) -> type[AnomalyModule]:
    module, _, name = path.rpartition(".")
    found: type[AnomalyModule] = getattr(import_module(module), name)
    return found


NO_STATE = {"_parameters", "_buffers", "_modules", "_trainer"}
"""The last two serve `fit`, and whoever copies a pre-trained network; no score needs them."""


def _loose_tensors(module: nn.Module) -> Iterator[str]:
    """Names of tensors in attributes, also inside lists, tuples and dicts, that are neither parameter nor buffer."""
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in NO_STATE and _holds_tensor(value):
                yield f"{prefix}.{name}"


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_tensor(part) for part in value.values())
    if isinstance(value, list | tuple | set):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)
