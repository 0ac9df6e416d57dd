import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger

from anomaly_zoo import tracking
from anomaly_zoo.config import resolve
from anomaly_zoo.results import Result, load
from anomaly_zoo.run import run

SMALL = ["--shots", "2", "--seeds", "0", "--image-size", "64"]
TRACKED = """
import sys
import tests.toy
from anomaly_zoo.bench import main

training_step = tests.toy.Toy.training_step

def fails_on_alpha(self, batch, batch_idx):
    if "/alpha/" in batch.path[0] and batch_idx == 1:
        raise RuntimeError("no luck")
    return training_step(self, batch, batch_idx)

tests.toy.Toy.training_step = fails_on_alpha
sys.exit(main(sys.argv[1:]))
"""


def records(file: Path) -> dict[str, list[Any]]:
    """What a `.wandb` file (a LevelDB log with a header) holds, by the kind of record."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, position, block = file.read_bytes(), 7, 32768
    found: dict[str, list[Any]] = {}
    message = b""
    while position + 7 <= len(data):
        if block - position % block < 7:  # no header fits into the rest of a block
            position += block - position % block
            continue
        _, length, part = struct.unpack_from("<IHB", data, position)
        message += data[position + 7 : position + 7 + length]
        position += 7 + length
        if part in (1, 4):  # whole, or the last of several parts
            record = Record.FromString(message)
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
            message = b""
    return found


@pytest.mark.slow
def test_tracking_writes_everything_into_the_folder_of_the_run(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 3}}\n")
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "XDG"))}
    environment = keep | {
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    environment["MPLCONFIGDIR"] = str(tmp_path / "matplotlib")  # torchmetrics imports it where it is installed
    options = ["--method", "../toy.yaml", "--root", str(tiny_root), *SMALL, "--results", "../results"]
    done = subprocess.run(
        [sys.executable, "-c", TRACKED, *options],
        cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # alpha fails
    assert done.stderr == ""
    assert not [path for folder in ("home", "cwd") for path in (tmp_path / folder).rglob("*") if path.is_file()]

    failed, tracked = (
        tmp_path / "results" / "tiny" / name / "toy" / "shots=2" / "seed=0" for name in ("alpha", "beta")
    )
    files = {folder: list(folder.rglob("*.wandb")) for folder in (failed, tracked)}
    assert [len(found) for found in files.values()] == [1, 1]
    assert records(files[failed][0])["exit"][0].exit_code == 1

    found = records(files[tracked][0])
    assert found["exit"][0].exit_code == 0
    assert found["run"][0].display_name == "tiny/beta/toy/2/0"
    config = {item.key: item.value_json for item in found["run"][0].config.update}
    assert config["method"] == '"toy"'
    assert config["category"] == '"beta"'
    assert '"image_size":64' in config["config"].replace(" ", "")
    rows = [{item.nested_key[0] if item.nested_key else item.key for item in row.item} for row in found["history"]]
    logged = ("train/loss", "test/aupro", "test/pictures", "test/images", "test/roc_table", "cost/adapt_s")
    assert [sum(name in row for row in rows) for name in logged] == [3, 1, 1, 1, 1, 1]
    assert_the_dashboards_needs(found, tracked)
    result = load(tracked.with_suffix(".json"))
    staged = [json.loads(path.read_text()) for path in tracked.rglob("*") if is_staged_result(path)]
    assert [record["metrics"] for record in staged] == [result.metrics]


def is_staged_result(path: Path) -> bool:
    return path.is_file() and "artifacts" in path.parts and '"schema"' in path.read_text(errors="ignore")


def assert_the_dashboards_needs(found: dict[str, list[Any]], folder: Path) -> None:
    (run,) = found["run"]
    assert (run.run_group, run.job_type) == ("tiny/toy/shots=2", "toy")
    assert set(run.tags) == {"tiny", "beta", "toy", "shots=2", "seed=0", "tf_efficientnet_lite0"}
    metrics = {metric.name: metric.summary for metric in found["metric"]}
    assert metrics["test/aupro"].max
    assert not metrics["test/aupro"].min
    assert metrics["cost/ms_per_image"].min
    summary = {
        item.nested_key[0] if item.nested_key else item.key: item.value_json
        for record in found["summary"]
        for item in record.update
    }
    result = load(folder.with_suffix(".json"))
    for name, value in {**result.metrics, **result.timing, **result.resources}.items():
        assert json.loads(summary[f"final/{name}"]) == pytest.approx(value)
    assert [artifact.name for artifact in found["artifact"] if artifact.type == "result"] == [
        "result-tiny-beta-toy-2-0"
    ]
    (table,) = (json.loads(path.read_text()) for path in folder.rglob("media/table/test/images*.table.json"))
    assert table["columns"] == ["picture", "path", "defect", "anomalous", "image_score"]
    score = {"/".join(Path(image["path"]).parts[-3:]): image["score"] for image in result.images}
    assert len(table["data"]) == 6
    assert all(score[row[1]] == row[4] for row in table["data"])
    assert len(list(folder.rglob("media/images/test/*.png"))) >= 6


# Failures


def toy_config(root: Path, folder: Path) -> dict[str, Any]:
    (folder / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 2}}\n")
    options = [f"--data.root={root}", "--data.category=alpha", "--data.shots=2", "--data.image_size=64"]
    return resolve(folder / "toy.yaml", [*options, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"])


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(variable)
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):  # `tracker` sets them
        monkeypatch.setenv(variable, "")


@pytest.mark.usefixtures("tracked")
def test_a_tracker_that_does_not_start_is_done_without(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes: list[str] = []

    def start(folder: Path, known: Result, mode: str) -> None:
        modes.append(mode)
        raise RuntimeError("no service\nat all")

    monkeypatch.setattr(tracking, "_start", start)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert run(toy_config(tiny_root, tmp_path), "toy", tmp_path / "results").status == "ok"
    assert modes == ["online", "offline"]
    assert capsys.readouterr().err.splitlines() == [
        "W&B: RuntimeError: no service; the run goes on offline.",
        "W&B: RuntimeError: no service; the run goes on without tracking.",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("tracked")
@pytest.mark.filterwarnings("ignore")  # the killed service leaves open pipes
def test_a_tracker_that_dies_midway_never_fails_the_run(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text("model: {class_path: tests.toy.Toy, init_args: {steps: 3}}\n")
    options = ["--method", str(tmp_path / "toy.yaml"), "--root", str(tiny_root), "--category", "alpha", *SMALL]
    options += ["--results", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "results/tiny/alpha/toy/shots=2/seed=0.json").metrics["image_auroc"] > 0.5
    assert "killed 1" in done.stdout


KILLED = """
import os, signal, sys
from pathlib import Path
import tests.toy
from anomaly_zoo.bench import main

training_step = tests.toy.Toy.training_step

def kills_the_service(self, batch, batch_idx):
    if batch_idx == 1:
        names = {pid.name: (pid / "cmdline").read_text() for pid in Path("/proc").glob("[0-9]*") if ours(pid)}
        services = [pid for pid, name in names.items() if "wandb-core" in name]
        for pid in services:
            os.kill(int(pid), signal.SIGKILL)
        print("killed", len(services), flush=True)
    return training_step(self, batch, batch_idx)

def ours(pid):
    try:
        return f"PPid:\\t{os.getpid()}\\n" in (pid / "status").read_text()
    except OSError:
        return False

tests.toy.Toy.training_step = kills_the_service
sys.exit(main(sys.argv[1:]))
"""


def test_a_failure_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def fails(*_: Any) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WandbLogger, "log_metrics", fails)
    logger = tracking.Tracker.__new__(tracking.Tracker)
    for _ in range(3):
        logger.log_metrics({"loss": 1.0}, step=0)
    assert len(calls) == 1
    said = "W&B: OSError: [Errno 28] No space left on device; the run goes on without tracking.\n"
    assert capsys.readouterr().err == said
