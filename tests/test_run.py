import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo import run as run_module
from anomaly_zoo.config import resolve
from anomaly_zoo.data.support import support_sha256
from anomaly_zoo.measures import SCORES
from anomaly_zoo.results import Result, load
from anomaly_zoo.run import run

METRICS = set(SCORES)


def config_for(method: str | Path, root: Path, *more: str) -> dict[str, Any]:
    options = [f"--data.root={root}", "--data.category=alpha", "--data.shots=4", "--data.image_size=64"]
    return resolve(method, [*options, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", *more])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def result(tiny_root: Path, store: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB", "0")
        return run(config_for("patchcore", tiny_root, "--seed_everything=3"), "patchcore", store)


def test_the_result_says_which_run_it_is(result: Result, tiny_root: Path) -> None:
    assert (result.dataset, result.category, result.method) == ("tiny", "alpha", "patchcore")
    assert (result.shots, result.seed, result.backbone) == (4, 3, "tf_efficientnet_lite0")
    assert (result.status, result.error) == ("ok", None)
    assert result.config == config_for("patchcore", tiny_root, "--seed_everything=3")


def test_the_result_has_every_metric_overall_and_per_defect(result: Result) -> None:
    assert result.per_defect.keys() == {"large", "small"}
    for metrics in (result.metrics, *result.per_defect.values()):
        assert metrics.keys() == METRICS
        assert all(0 <= value <= 1 for value in metrics.values())
    assert result.undefined == {}


def test_the_result_says_what_it_cost(result: Result) -> None:
    assert result.timing.keys() == {"adapt_s", "test_s", "ms_per_image"}
    assert all(0 < value < math.inf for value in result.timing.values())
    assert result.timing["ms_per_image"] < 1000 * result.timing["test_s"]
    assert 50 < result.resources["peak_rss_mib"] < 100_000
    assert result.resources["trainable_params"] == 0
    assert result.device.startswith("cpu (")


def test_the_result_says_what_the_training_did(
    result: Result, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert result.training == {}  # training-free
    monkeypatch.setenv("WANDB", "0")
    (tmp_path / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 2}}\n")
    trained = run(config_for(tmp_path / "toy.yaml", tiny_root), "toy", tmp_path / "results")
    assert (trained.training["steps"], trained.training["kept_step"]) == (2, 2)
    assert load(trained.path_in(tmp_path / "results")) == trained


def test_the_result_lists_the_support_relative_to_the_dataset(result: Result, tiny_root: Path) -> None:
    files = [tiny_root / path for path in result.support["paths"]]
    assert len(set(files)) == 4
    assert all(file.is_file() and file.parent == tiny_root / "alpha" / "train" / "good" for file in files)
    assert result.support["sha256"] == support_sha256(files, tiny_root)


def test_the_result_lists_every_test_image(result: Result, tiny_root: Path) -> None:
    kinds = [(image["defect"], image["label"]) for image in result.images]
    assert sorted(kinds) == [("", False)] * 3 + [("large", True)] * 3 + [("small", True)] * 3
    assert {Path(image["path"]).name for image in result.images} == {"000.png", "001.png", "002.png"}


def test_the_result_says_what_made_it(result: Result) -> None:
    assert result.versions.keys() >= {"anomaly_zoo", "python", "torch", "lightning", "timm", "torchmetrics", "numpy"}
    assert result.started.endswith("+00:00")
    if result.git is not None:
        assert len(str(result.git["commit"])) == 40
        assert isinstance(result.git["dirty"], bool)


def test_there_is_no_commit_where_the_package_only_lies_inside_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "repository" / ".venv" / "anomaly_zoo" / "run.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(run_module, "__file__", str(file))
    assert run_module._git() is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path / "repository")]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message=theirs"]):
        subprocess.run([*git, *command], check=True)
    assert run_module._git() is None
    subprocess.run([*git, "add", str(file)], check=True)
    assert (run_module._git() or {}).get("dirty") is True


def test_the_result_is_saved(result: Result, store: Path) -> None:
    assert load(result.path_in(store)) == result


def test_without_tracking_only_pictures_are_written(result: Result, store: Path) -> None:
    folder = result.path_in(store).with_suffix("")
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kinds = ("good", "large", "small")
    pictures = {f"pictures/{kind}_00{number}.png" for kind in kinds for number in range(2)}
    gallery = {f"gallery/{name}" for name in ("images.jpg", "masks.png", "maps.png", "index.json")}
    assert written == pictures | gallery


def test_without_masks_pixel_metrics_are_undefined_with_a_reason(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB", "0")
    root = shutil.copytree(tiny_root, tmp_path / "tiny", ignore=shutil.ignore_patterns("ground_truth"))
    result = run(config_for("patchcore", root), "patchcore", tmp_path / "results")
    assert result.metrics.keys() == {"image_auroc", "image_ap", "image_f1_max"}
    assert result.undefined.keys() == METRICS - result.metrics.keys()
    assert all(result.undefined.values())
