import os
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_zoo
from anomaly_zoo.__main__ import main

REPOSITORY = Path(__file__).parents[1]
NO_DATA = ["fit", "--config=configs/methods/patchcore.yaml", "--data.root=x"]


def say(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["__main__.py", *arguments])
    return main()


def test_the_version_needs_neither_torch_nor_lightning() -> None:
    command = (
        "import sys; sys.argv[1:] = ['--version']; from anomaly_zoo.__main__ import main; main(); print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    version, modules = said.splitlines()
    assert version == f"anomaly_zoo {anomaly_zoo.__version__}"
    assert "anomaly_zoo" in modules.split()
    assert not {"torch", "lightning", "numpy"} & set(modules.split())


def test_help_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        say(monkeypatch, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert raised.value.code == 0
    assert said.startswith("usage: python -m anomaly_zoo [-c CONFIG] {fit,test,predict}")
    assert "python -m anomaly_zoo fit --config configs/methods/frozen.yaml" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "{fit,test,predict}"),
        (["fitt"], "'fitt'"),
        (["fit", "--data.rot=x"], "--data.rot"),
        (["fit", "--data.shots=few"], '"data.shots"'),
        (["fit", "--config=missing.yaml"], "missing.yaml"),
        (NO_DATA, "data.category"),
        ([*NO_DATA, "--data.category=c"], "folder x does not exist"),
        ([*NO_DATA, "--data.category=c", "--trainer.limit_test_batches=7.5"], "limit_test_batches"),
        ([*NO_DATA, "--data.category=c", "--backbone.name=resnet5"], "Did you mean resnet50"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.chdir(REPOSITORY)
    assert say(monkeypatch, *arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert named in said.err
    assert len(said.err) < 200


@pytest.mark.slow
def test_fit_and_test_in_processes_of_their_own(tiny_root: Path, tmp_path: Path) -> None:
    data = ["--data.root", str(tiny_root), "--data.category", "alpha", "--data.shots", "2", "--data.image_size", "64"]
    method = ["--config", str(REPOSITORY / "configs" / "methods" / "patchcore.yaml")]
    # torchmetrics imports matplotlib where that is installed, and that keeps a list of fonts
    home = {"HOME": str(tmp_path / "home"), "WANDB": "1", "MPLCONFIGDIR": str(tmp_path / "out" / "matplotlib")}

    def command(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "anomaly_zoo", *arguments, *method, *data, "--trainer.default_root_dir", "out"],
            cwd=tmp_path, env=os.environ | home, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert command("fit")[-1].endswith("--ckpt_path out/adapted.ckpt`")
    assert any((tmp_path / "out" / "wandb").glob("*/*.wandb"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    metrics = dict(line.split() for line in command("test", "--ckpt_path", "out/adapted.ckpt")[-9:-1])
    assert float(metrics["image_auroc"]) > 0.9


@pytest.mark.slow
def test_nothing_needs_what_windows_lacks() -> None:
    blocked = "import sys; sys.modules.update(fcntl=None, resource=None); "
    command = blocked + "import anomaly_zoo.bench, anomaly_zoo.command_line, anomaly_zoo.grid.worker, anomaly_zoo.run"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
