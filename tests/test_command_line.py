import csv
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anomaly_zoo.command_line import CommandLine
from anomaly_zoo.config import method_files, quiet, resolve
from anomaly_zoo.results import Result, load_all, save
from anomaly_zoo.run import run


def options(root: Path, out: Path) -> list[str]:
    """What follows the sub-command: a trained method with few steps on one category."""
    data = [f"--data.root={root}", "--data.category=alpha", "--data.shots=2", "--data.image_size=64"]
    model = ["--model=tests.toy.Toy", "--model.init_args.steps=2"]
    trainer = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={out}"]
    return [f"--config={method_files()['patchcore']}", *data, *model, *trainer]


@quiet()
def command(*arguments: str) -> CommandLine:
    return CommandLine(list(arguments))


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")


@pytest.fixture(scope="module")
def out(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that `fit` has adapted."""
    folder = tmp_path_factory.mktemp("fitted") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB", "0")
        command("fit", *options(tiny_root, folder))
    return folder


@pytest.fixture(scope="module")
def in_one_process(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("run")
    method = folder / "toy.yaml"
    method.write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 2}}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB", "0")
        return run(resolve(method, options(tiny_root, folder)[1:-1]), "toy", folder)


def test_fit_writes_the_adapted_module_and_nothing_else(out: Path) -> None:
    assert [path.name for path in out.iterdir()] == ["adapted.ckpt"]


def test_fit_says_how_to_go_on(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("fit", *options(tiny_root, tmp_path))
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith(f"with `test --ckpt_path {tmp_path / 'adapted.ckpt'}`\n")
    assert said.out.count("\n") == 1


def test_fit_then_test_gives_what_one_process_gives(
    tiny_root: Path, out: Path, in_one_process: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = command("test", *options(tiny_root, out), f"--ckpt_path={out / 'adapted.ckpt'}")
    assert cli.evaluation.metrics == in_one_process.metrics
    assert cli.evaluation.images == in_one_process.images
    *printed, last = capsys.readouterr().out.splitlines()
    assert dict(map(str.split, printed)) == {name: f"{value:.4f}" for name, value in in_one_process.metrics.items()}
    (result,) = load_all(out / "results")
    assert last == f"Result: {result.path_in(out / 'results')}"
    assert (result.method, result.support) == ("patchcore", in_one_process.support)
    assert (result.metrics, result.images) == (in_one_process.metrics, in_one_process.images)
    assert result.training == in_one_process.training
    assert result.config["data"] == in_one_process.config["data"]


def test_a_result_of_the_bench_is_not_replaced(
    tiny_root: Path, out: Path, tmp_path: Path, in_one_process: Result, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(replace(in_one_process, method="patchcore", cell="a hash"), tmp_path / "results")
    before = path.read_bytes()
    command("test", *options(tiny_root, tmp_path), f"--ckpt_path={out / 'adapted.ckpt'}")
    assert capsys.readouterr().out.splitlines()[-1] == f"Not saved, since the bench has made {path}."
    assert path.read_bytes() == before


def test_predict_writes_the_score_of_every_test_image(tiny_root: Path, out: Path, in_one_process: Result) -> None:
    command("predict", *options(tiny_root, out), f"--ckpt_path={out / 'adapted.ckpt'}")
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert {row["path"]: float(row["image_score"]) for row in rows} == {
        image["path"]: image["score"] for image in in_one_process.images
    }
    assert len(rows) == 9
    (out / "predictions.csv").unlink()


@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_scoring_asks_for_the_adapted_module(subcommand: str, tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{subcommand} needs --ckpt_path: the adapted.ckpt that `fit` wrote"):
        command(subcommand, *options(tiny_root, tmp_path))


def test_a_missing_checkpoint_is_named(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        command("test", *options(tiny_root, tmp_path), "--ckpt_path=gone.ckpt")


def test_there_is_nothing_to_validate() -> None:
    with pytest.raises(ValueError, match="invalid choice: 'validate'"):
        command("validate")


BROKEN: dict[str, tuple[Any, str]] = {
    "empty": (b"", "holds no whole checkpoint (0 bytes)"),
    "text": (b"hello", "holds no whole checkpoint (5 bytes)"),
    "json": (b'{"a": 1}', "holds no whole checkpoint"),
    "code": (pickle.dumps(Path("x")), "holds Python objects, which are never loaded"),
    "half": (None, "holds no whole checkpoint"),
    "foreign": ({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "something else (conv1.weight, fc.bias"),
    "tensor": (torch.zeros(1), "holds something else (Tensor"),
    "other state": ({"state_dict": {}}, "something else (state_dict"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_or_foreign_checkpoint_is_one_line(kind: str, tiny_root: Path, out: Path, tmp_path: Path) -> None:
    content, named = BROKEN[kind]
    path = tmp_path / "x.ckpt"
    if kind == "half":
        content = (out / "adapted.ckpt").read_bytes()[:20000]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=rf"x.ckpt holds .*{re.escape(named.removeprefix('holds '))}") as refused:
        command("test", *options(tiny_root, tmp_path), f"--ckpt_path={path}")
    assert str(refused.value).count("\n") == 0
    assert "pass the adapted.ckpt that `fit` wrote" in str(refused.value)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--data.image_size=96", "data.image_size=64 (not 96)"),
        ("--data.tile_px=32", "data.tile_px=None (not 32)"),
        ("--data.category=beta", "data.category=alpha (not beta)"),
        ("--data.shots=3", "data.shots=2 (not 3)"),
        ("--seed_everything=1", "data.seed=0 (not 1)"),
        ("--backbone.stages=[2]", "backbone.stages="),
        ("--backbone.name=tf_efficientnet_lite1", "backbone.name=tf_efficientnet_lite0 (not tf_efficientnet_lite1)"),
        ("--model.init_args.steps=3", "model.init_args.steps=2 (not 3)"),
        ("--model=anomaly_zoo.methods.memory.PatchCore", "holds a Toy, not a PatchCore"),
    ],
)
@pytest.mark.parametrize("subcommand", ["test", "predict"])
def test_an_option_that_contradicts_the_checkpoint_is_named(
    subcommand: str, option: str, named: str, tiny_root: Path, out: Path, tmp_path: Path
) -> None:
    given = options(tiny_root, tmp_path)
    if option.startswith("--model="):
        given = [other for other in given if not other.startswith("--model")]
    with pytest.raises(ValueError, match=re.escape(named)):
        command(subcommand, *given, option, f"--ckpt_path={out / 'adapted.ckpt'}")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        *((f"--trainer.precision={precision}", f"trainer.precision is {precision}, but scores need 32-true")
          for precision in ("16-true", "bf16-true", "16-mixed", "64-true", "16")),
        *((f"--trainer.strategy={strategy}", f"trainer.strategy is {strategy}: choose auto or ddp")
          for strategy in ("ddp_spawn", "fsdp", "deepspeed", "lightning.pytorch.strategies.FSDPStrategy")),
        *((f"--false_alarm_rate={rate}", "false_alarm_rate") for rate in ("5", "0", "nan")),
        ("--false-alarm-rate=1", "false_alarm_rate"),
        ("--ckpt_path=x.ckpt", "fit adapts anew"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_work(option: str, named: str, tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        command("fit", *options(tiny_root, tmp_path / "out"), option)
    assert not (tmp_path / "out").exists()


def test_a_model_folder_that_cannot_be_written_is_refused_before_any_work(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tests.toy.Toy cannot be saved in a model folder"):
        command("fit", *options(tiny_root, tmp_path / "out"), f"--output={tmp_path / 'model'}")
    (tmp_path / "file").write_text("")
    given = [option for option in options(tiny_root, tmp_path / "out") if not option.startswith("--model")]
    with pytest.raises(ValueError, match=r"--output .*file is a file: choose another name"):
        command("fit", *given, f"--output={tmp_path / 'file'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_every_image_has_one_row_whatever_the_processes(
    devices: int, tiny_root: Path, out: Path, tmp_path: Path
) -> None:
    given = [*options(tiny_root, tmp_path), f"--ckpt_path={out / 'adapted.ckpt'}", f"--trainer.devices={devices}"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    subprocess.run(
        [sys.executable, "-m", "anomaly_zoo", "predict", *given], check=True, env=os.environ | {"PYTHONPATH": path}
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert len(rows) == len({row["path"] for row in rows}) == 9


def test_more_processes_than_images_are_refused(tiny_root: Path, out: Path) -> None:
    with pytest.raises(ValueError, match=r"10 devices for 9 images: pass --trainer.devices=9"):
        command("predict", *options(tiny_root, out), f"--ckpt_path={out / 'adapted.ckpt'}", "--trainer.devices=10")
