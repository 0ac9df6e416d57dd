import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from anomaly_zoo.__main__ import main
from anomaly_zoo.config import method_files
from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.calibration import calibrate
from anomaly_zoo.deploy.commands import _parser
from anomaly_zoo.deploy.model_folder import Model, load, save
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from tests.test_command_line import command


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "alpha"
    save(model, path)
    return path


def say(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["__main__.py", *map(str, arguments)])
    return main()


def rows(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))


def test_fit_writes_a_model_folder(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [f"--data.root={tiny_root}", "--data.category=beta", "--data.shots=3", "--data.image_size=64"]
    trainer = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    trainer += [f"--trainer.default_root_dir={tmp_path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB", "0")
        output = ["--output", str(tmp_path / "model"), "--false_alarm_rate", "0.1"]
        cli = command("fit", f"--config={method_files()['patchcore']}", *data, *trainer, *output)
    assert capsys.readouterr().out.endswith(
        f"Inspect images: `predict --model {tmp_path / 'model'} FOLDER --output out`\n"
    )
    model = load(tmp_path / "model")
    assert (model.category, model.image_shape, len(model.support)) == ("beta", (64, 64), 3)
    assert model.calibration.false_alarm_rate == 0.1
    images = [read_image(path) for path in sorted((tiny_root / "beta" / "test").glob("*/*.png"))]
    batch = next(iter(cli.datamodule.test_dataloader()))
    cli.model.eval()
    scores = [found.image_score for found in TorchInspector(model).inspect(images)]
    assert cli.model(batch.image).image_score.tolist() == pytest.approx(scores[: len(batch.path)], rel=1e-5)


def test_predict_inspects_a_folder(
    folder: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tiny_root / "alpha" / "test"
    arguments = ["predict", "--model", folder, images, "--output", tmp_path, "--batch-size", 4]
    assert say(monkeypatch, *arguments) == 0
    found = rows(tmp_path)
    assert len(found) == 9
    assert [row["path"] for row in found] == sorted(row["path"] for row in found)
    inspector = TorchInspector(load(folder))
    for row in found:
        alone = inspector.inspect([read_image(Path(row["path"]))])[0]
        assert float(row["image_score"]) == pytest.approx(alone.image_score, rel=1e-4)
        assert row["decision"] == ("anomalous" if float(row["image_score"]) > float(row["threshold"]) else "normal")
    decisions = {Path(row["path"]).parent.name: row["decision"] for row in found}
    assert decisions["large"] == "anomalous"
    counts = [sum(row["decision"] == decision for row in found) for decision in ("normal", "anomalous")]
    assert capsys.readouterr().out == f"{counts[0]} normal, {counts[1]} anomalous: {tmp_path}\n"


def test_files_that_cannot_be_read_are_listed_and_do_not_end_the_rest(
    folder: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_root / "alpha" / "test" / "good" / "000.png"
    (tmp_path / "in").mkdir()
    for name, content in (("a", source.read_bytes()), ("b", source.read_bytes()[:900]), ("c", source.read_bytes())):
        (tmp_path / "in" / f"{name}.png").write_bytes(content)
    assert say(monkeypatch, "predict", "--model", folder, tmp_path / "in", "--output", tmp_path / "out") == 1
    assert [row["decision"] == "unreadable" for row in rows(tmp_path / "out")] == [False, True, False]
    assert "damaged or cut off" in rows(tmp_path / "out")[1]["error"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["unreadable"] == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["predict"], "the following arguments are required: --model, images, --output"),
        (["predict", "--model", "gone", "x.png", "--output", "o"], "gone is no model folder"),
        (["predict", "--model", "gone.onnx", "x.png", "--output", "o"], "there is no model gone.onnx"),
        (["predict", "--model", "M", "x.png", "--output", "o"], "no image x.png"),
        (["predict", "--model", "M", "empty", "--output", "o"], "no images in empty"),
        (["predict", "--model", "M", "x", "y", "--watch", "--output", "o"], "--watch needs one folder, not x y"),
        (["predict", "--model", "M", "x", "--output", "o", "--batch-size", "0"], "'0' is not a number of 1 or more"),
        (["predict", "--model", "M", "x", "--output", "o", "--threshold", "nan"], "'nan' is not a number"),
        (
            ["predict", "--model", "M", "x", "--output", "o", "--false_alarm_rate", "5"],
            "'5' is not a share between 0 and 1",
        ),
        (
            ["predict", "--model", "M", "x", "--output", "o", "--false-alarm-rate=0"],
            "'0' is not a share between 0 and 1",
        ),
        (
            ["predict", "--model", "M", "x", "--output", "o", "--threshold=1", "--false-alarm-rate=.1"],
            "pass one of them",
        ),
        (["predict", "--model", "M", "x", "--output", "o", "--device", "nonsense"], "--device nonsense cannot be used"),
        (["export", "--model", "M", "--output", "empty"], "--output empty is a folder: name a file"),
        (["export"], "the following arguments are required: --model"),
        (["export", "--model", "gone"], "gone is no model folder"),
        (["serve", "--model", "gone"], "gone is no model folder"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str], named: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert say(monkeypatch, *(folder if argument == "M" else argument for argument in arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert named in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("spelled", ["--false-alarm-rate", "--false_alarm_rate"])
def test_a_threshold_or_a_rate_without_adapting_anew(
    spelled: str, folder: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["predict", "--model", folder, tiny_root / "alpha" / "test" / "large", "--output"]
    assert say(monkeypatch, *arguments, tmp_path / "a", "--threshold", 1e6) == 0
    assert {(row["decision"], row["threshold"]) for row in rows(tmp_path / "a")} == {("normal", "1000000.0")}
    assert say(monkeypatch, *arguments, tmp_path / "b", spelled, 0.2) == 0
    calibration = load(folder).calibration
    expected = calibrate(calibration.image_scores, calibration.map_peaks, calibration.map_level, 0.2).threshold
    assert {float(row["threshold"]) for row in rows(tmp_path / "b")} == {expected}


def test_warnings_of_a_model_are_said_where_it_decides(
    model: Model, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = replace(model.calibration, threshold=None)
    save(replace(model, warnings=("one image alone",), calibration=calibration), tmp_path / "one")
    images = tiny_root / "alpha" / "test" / "good"
    assert say(monkeypatch, "predict", "--model", tmp_path / "one", images, "--output", tmp_path / "o") == 0
    said = capsys.readouterr()
    assert (said.err, said.out) == ("warning: one image alone\n", f"3 undecided: {tmp_path / 'o'}\n")
    assert (
        say(monkeypatch, "predict", "--model", tmp_path / "one", images, "--output", tmp_path / "o", "--threshold=9")
        == 0
    )
    assert capsys.readouterr().err == ""
    rate = ["predict", "--model", tmp_path / "one", images, "--output", tmp_path / "o", "--false-alarm-rate=.1"]
    assert say(monkeypatch, *rate) == 2
    assert "promises no false-alarm rate: pass --threshold" in capsys.readouterr().err


def test_outputs_inside_the_input_are_not_inspected(
    folder: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_root / "alpha" / "test" / "large", tmp_path / "cam")
    for name in ("found", "found", "found again", "."):
        arguments = ["predict", "--model", folder, tmp_path / "cam", "--output", tmp_path / "cam" / name]
        assert say(monkeypatch, *arguments, "--overlays", "all", "--maps") == 0
        assert len(rows(tmp_path / "cam" / name)) == 3


def test_a_watched_folder_that_disappears_is_one_line(
    folder: Path, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_root / "alpha" / "test" / "large", tmp_path / "cam")
    looks = iter(range(4))
    monkeypatch.setattr("time.sleep", lambda _: None if next(looks) < 3 else shutil.rmtree(tmp_path / "cam"))
    arguments = ["predict", "--watch", "--model", folder, tmp_path / "cam", "--output", tmp_path / "o"]
    assert say(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert said.err == f"error: the watched folder {tmp_path / 'cam'} has disappeared: start again when it is back.\n"
    assert len(rows(tmp_path / "o")) == 3
    assert (tmp_path / "o" / "summary.json").is_file()


def test_new_products_get_a_method_that_there_is() -> None:
    assert _parser().parse_args(["serve"]).method in method_files()


@pytest.mark.slow
def test_watching_a_folder_in_a_process_of_its_own(folder: Path, tiny_root: Path, tmp_path: Path) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    images = sorted((tiny_root / "alpha" / "test").glob("*/*.png"))
    table = tmp_path / "out" / "predictions.csv"
    arguments = ["predict", "--watch", "--model", str(folder), str(camera), "--output", str(table.parent)]
    started = subprocess.Popen(
        [sys.executable, "-m", "anomaly_zoo", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore it
    )  # fmt: skip
    wait_until(table.is_file)
    for number, image in enumerate(images):
        content = image.read_bytes()
        with (camera / f"{number}.png").open("wb") as file:  # in two halves
            file.write(content[: len(content) // 2])
            file.flush()
            time.sleep(0.05)
            file.write(content[len(content) // 2 :])
    wait_until(lambda: len(table.read_text().splitlines()) == 1 + len(images))
    started.send_signal(signal.SIGINT)
    out, errors = started.communicate(timeout=120)
    assert (started.returncode, errors) == (0, "")
    assert out.startswith("3 normal, 6 anomalous") or "anomalous" in out
    assert {row["decision"] for row in rows(tmp_path / "out")} <= {"normal", "anomalous"}
    assert (tmp_path / "out" / "contact_sheet.png").is_file()


@pytest.mark.slow
def test_serving_in_a_process_of_its_own(folder: Path, test_images: list[Path], tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "anomaly_zoo", "serve", "--model", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert started.stdout is not None
    url = started.stdout.readline().split()[0]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}api/products/model/inspect", test_images[0].read_bytes(), timeout=30) as answer:
        assert json.load(answer)["decision"] in ("normal", "anomalous")
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=120)
    assert (started.returncode, errors) == (0, "")
    assert not list(tmp_path.iterdir())


def wait_until(condition: object, timeout_s: float = 180.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
