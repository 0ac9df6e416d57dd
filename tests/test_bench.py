import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from anomaly_zoo.bench import main
from anomaly_zoo.results import Result, load, load_all, save
from anomaly_zoo.run import describe
from anomaly_zoo.types import Batch, Distances, Stages
from tests.conftest import write_image
from tests.toy import Toy


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def bench(root: Path, *options: str, method: str = "patchcore") -> int:
    """Runs one seed of a small grid; `options` win."""
    small = ["--shots", "2", "--seeds", "0", "--image-size", "64"]
    return main(["--method", method, "--root", str(root), *small, *options])


def toy(path: Path) -> str:
    path.write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 1}}\n")
    return str(path)


def stored() -> list[str]:
    return [f"{result.category} {result.shots} {result.seed}" for result in load_all(Path("results"))]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is trained; returns the list into which every run is written."""
    done: list[str] = []

    def run(config: dict[str, Any], method: str, store: Path, cell: str) -> Result:
        data = config["data"]
        done.append(f"{data['category']} {data['shots']} {config['seed_everything']}")
        timing = {"adapt_s": float(len(done))}
        result = replace(describe(config, method), metrics={"image_auroc": 0.5}, timing=timing, cell=cell)
        save(result, store)
        return result

    monkeypatch.setattr("anomaly_zoo.grid.worker.run", run)
    return done


# The grid


def test_the_grid_is_category_by_shots_by_seed(tiny_root: Path, runs: list[str]) -> None:
    assert bench(tiny_root, "--shots", "2", "1", "1", "--seeds", "1", "0") == 0
    order = [f"{category} {shots} {seed}" for category in ("alpha", "beta") for shots in (2, 1) for seed in (1, 0)]
    assert runs == order
    assert sorted(stored()) == sorted(order)


def test_finished_runs_are_skipped_unless_forced(
    tiny_root: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tiny_root, "--category", "alpha") == 0
    (first,) = load_all(Path("results"))
    assert bench(tiny_root) == 0
    assert "1 of 2 runs are finished already" in capsys.readouterr().out
    assert runs == ["alpha 2 0", "beta 2 0"]
    assert load_all(Path("results"))[0] == first
    assert bench(tiny_root, "--force") == 0
    assert runs == ["alpha 2 0", "beta 2 0"] * 2
    assert load_all(Path("results"))[0] != first


def test_a_finished_grid_shows_its_table_and_reads_no_image(
    tiny_root: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tiny_root) == 0
    monkeypatch.setattr("anomaly_zoo.data.dataset.read_image", None)
    capsys.readouterr()
    assert bench(tiny_root) == 0
    assert "2 of 2 runs are finished already" in (said := capsys.readouterr().out)
    assert "tiny · beta · shots=2" in said


def test_the_same_folder_may_be_spelled_differently(tiny_root: Path, runs: list[str]) -> None:
    Path("link").symlink_to(tiny_root)
    shutil.copytree(tiny_root, "copy")
    assert [bench(root, "--dataset", "tiny") for root in (tiny_root, Path("link"), Path("copy"))] == [0, 0, 0]
    assert runs == ["alpha 2 0", "beta 2 0"]


def test_other_images_are_not_mistaken_for_those_of_a_finished_run(
    tiny_root: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_root, "copy")
    assert bench(tiny_root, "--category", "beta") == 0
    Path("copy/beta/test/good/000.png").unlink()
    assert bench(Path("copy"), "--dataset", "tiny", "--category", "beta") == 2
    assert "with other settings (the images or the weights)" in capsys.readouterr().err


def test_results_with_other_settings_are_never_overwritten_unasked(
    tiny_root: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tiny_root, "--category", "beta") == 0
    before = load_all(Path("results"))
    assert bench(tiny_root, "--image-size", "32") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: results/tiny/beta/patchcore/shots=2/seed=0.json was made with other settings")
    assert "(data.image_size)" in said
    assert said.count("\n") == 1
    assert load_all(Path("results")) == before
    assert bench(tiny_root, "--image-size", "32", "--force") == 0
    assert {result.config["data"]["image_size"] for result in load_all(Path("results"))} == {32}


# The runs


def test_results_lie_where_the_layout_says(tiny_root: Path) -> None:
    assert bench(tiny_root, "--dataset", "mine", "--category", "beta", "--results", "store") == 0
    result = load(Path("store/mine/beta/patchcore/shots=2/seed=0.json"))
    assert (result.dataset, result.status, result.config["data"]["image_size"]) == ("mine", "ok", 64)


def test_only_our_lines_are_shown(tiny_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench(tiny_root, "--category", "alpha", method=toy(Path("toy.yaml"))) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[0].startswith("toy alpha shots=2 seed=0: image_auroc ")
    assert said.out.splitlines()[0].endswith(" [1/1]")
    assert said.out.splitlines()[1].startswith("tiny · alpha · shots=2")


def test_a_failed_run_is_recorded_the_others_go_on_and_only_it_is_repeated(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Toy.training_step

    def fails_on_alpha(module: Toy, batch: Batch, batch_idx: int) -> Tensor:
        if "/alpha/" in batch.path[0]:
            raise RuntimeError("no luck [/in] alpha\nat all")
        return original(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "training_step", fails_on_alpha)
        assert bench(tiny_root, method=toy(Path("toy.yaml"))) == 1
    assert "failed: toy alpha shots=2 seed=0: RuntimeError: no luck [/in] alpha\n" in capsys.readouterr().out
    failed, finished = load_all(Path("results"))
    assert (failed.category, failed.status, failed.metrics) == ("alpha", "failed", {})
    assert failed.config["data"]["category"] == "alpha"
    error = (failed.error or "").splitlines()
    assert error[0] == "Traceback (most recent call last):"
    assert any("in fails_on_alpha" in line for line in error)
    assert error[-1] == "RuntimeError: no luck [/in] alpha"
    assert (finished.category, finished.status) == ("beta", "ok")

    assert bench(tiny_root, method="toy.yaml") == 0
    repaired, same = load_all(Path("results"))
    assert (repaired.status, repaired.error) == ("ok", None)
    assert same == finished


def test_scores_that_are_not_finite_make_a_failed_run(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Toy.distances

    def distances(module: Toy, features: Stages) -> Distances:
        return Distances(patch=[distance * float("nan") for distance in original(module, features).patch])

    monkeypatch.setattr(Toy, "distances", distances)
    assert bench(tiny_root, "--category", "alpha", method=toy(Path("toy.yaml"))) == 1
    (result,) = load_all(Path("results"))
    assert result.status == "failed"
    assert "nan" in (result.error or "").splitlines()[-1].lower()


# Which dataset


def test_mvtec_root_is_the_default_dataset(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MVTEC_ROOT", str(tiny_root))
    options = ["--method", "patchcore", "--category", "alpha", "--shots", "2", "--seeds", "0", "--image-size", "64"]
    assert main(options) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("Dataset mvtec_ad. ")
    assert "--root" in first
    assert Path("results/mvtec_ad/alpha/patchcore/shots=2/seed=0.json").is_file()


def test_datasets_are_looked_for_under_datasets(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mvtec_ad", "mine"):
        write_image(Path("datasets") / name / "metal" / "train" / "good" / "0.jpg", np.zeros((9, 9), np.uint8))
    assert main(["--method", "patchcore", "--shots", "2"]) == 2
    assert "datasets/mvtec_ad/metal/train/good holds 1 normal images" in capsys.readouterr().err
    assert main(["--method", "patchcore", "--dataset", "mine", "--shots", "2"]) == 2
    assert "datasets/mine/metal/train/good holds 1 normal images" in capsys.readouterr().err
    assert main(["--method", "patchcore", "--dataset", "other"]) == 2
    assert "datasets/other is not a folder" in capsys.readouterr().err


def test_elpv_is_the_dataset_where_there_is_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("elpv_dataset", reason="needs the extra `embedded`")
    options = ["--category", "mono", "--shots", "1", "--seeds", "0", "--image-size", "64"]
    assert main(["--method", "patchcore", *options]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("Dataset elpv. ")
    assert "--root" in first
    assert "MVTEC_ROOT" in first
    assert "licen" in second.lower()
    assert len(list(Path("datasets/elpv/mono/test/good").iterdir())) == 80
    (result,) = load_all(Path("results"))
    assert (result.dataset, len(result.images)) == ("elpv", 160)


INTERRUPTED = """
import sys, time
import tests.toy
from anomaly_zoo.bench import main

training_step = tests.toy.Toy.training_step

def stops_on_beta(self, batch, batch_idx):
    if "/beta/" in batch.path[0]:
        print("waiting", flush=True)
        time.sleep(60)
    return training_step(self, batch, batch_idx)

tests.toy.Toy.training_step = stops_on_beta
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(tiny_root: Path) -> None:
    options = ["--method", toy(Path("toy.yaml")), "--root", str(tiny_root), "--image-size", "64"]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *options, "--shots", "2", "--seeds", "0"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "waiting" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said == "Interrupted. The same command goes on where this one ended: finished runs are kept.\n"
    assert stored() == ["alpha 2 0"]
    assert bench(tiny_root, method="toy.yaml") == 0
    assert stored() == ["alpha 2 0", "beta 2 0"]
