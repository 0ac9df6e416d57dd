import csv
from dataclasses import replace
from pathlib import Path

import pytest

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
