"""The pool for real: processes of its own, killed and broken."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_zoo.bench import main
from anomaly_zoo.grid.local import _last_words
from anomaly_zoo.results import load_all

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
ALL = ("alpha", "beta")


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.chdir(tmp_path)
    Path("faulty.yaml").write_text("model: {class_path: tests.grid.faulty.Faulty, init_args: {steps: 1}}\n")
    return Path(shutil.copytree(tiny_root, tmp_path / "tiny"))


def options(root: Path, *more: str, workers: int = 2) -> list[str]:
    small = ["--method", "faulty.yaml", "--root", str(root), "--shots", "2", "--seeds", "0", "--image-size", "64"]
    return [*small, "--engine", "local", "--workers", str(workers), *more]


def status() -> dict[str, str]:
    return {result.category: (result.error or "ok").splitlines()[-1] for result in load_all(Path("results"))}


def test_the_pool_gives_the_scores_of_one_process(root: Path) -> None:
    assert main(options(root, "--seeds", "0", "1", "--threads", "1")) == 0
    assert main([*options(root, "--seeds", "0", "1", "--results", "alone"), "--engine", "serial"]) == 0
    pool, alone = load_all(Path("results")), load_all(Path("alone"))
    assert [(a.metrics, a.images, a.cell) for a in pool] == [(b.metrics, b.images, b.cell) for b in alone]
    assert len(pool) == 4


def test_the_last_cell_of_a_resumed_grid_gets_no_more_threads(root: Path) -> None:
    """They would change the last bits of its scores."""
    assert main(options(root)) == 0
    whole = load_all(Path("results"))
    whole[0].path_in(Path("results")).unlink()
    assert main(options(root)) == 0
    resumed = load_all(Path("results"))
    assert [(cell.device, cell.images) for cell in resumed] == [(cell.device, cell.images) for cell in whole]
    assert resumed[0].started != whole[0].started
    assert len(resumed) == 2


def test_broken_cells_take_nothing_with_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = {"alpha": "kill", "beta": "memory", "gamma": "nan", "delta": "exit once", "omega": ""}
    for category, fault in faults.items():
        if category not in ALL:
            shutil.copytree(root / "alpha", root / category)
        Path(f"fault-{category}").write_text(fault)
    assert main(options(root, "--retries", "1")) == 1
    said = capsys.readouterr().out
    reason = "its process was killed by SIGKILL, which the system does when memory runs out: try fewer --workers"
    broken = status()
    assert "memory" in broken.pop("beta")
    assert broken == {
        "alpha": f"ProcessDied: {reason} (try 2)",
        "gamma": "FloatingPointError: the loss is nan at step 0: lower learning_rate",
        "delta": "ok",  # its process ended, a new one was given the cell again
        "omega": "ok",
    }
    assert "3 of 5 runs failed. The same command runs them again.\n" in said
    for category, reason in (("alpha", "ProcessDied"), ("beta", "Traceback")):
        after = said.partition(f"failed: faulty {category} shots=2 seed=0: ")[2].splitlines()
        assert reason in Path(after[1].removeprefix("  log: ")).read_text()
    for category in faults:
        Path(f"fault-{category}").unlink(missing_ok=True)
    assert main(options(root)) == 0
    assert set(status().values()) == {"ok"}


def start(root: Path, *more: str) -> "subprocess.Popen[str]":
    """A bench in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "anomaly_zoo.bench", *options(root, *more)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS.parent / "src")])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 600
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(path.read_text())


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def assert_ends(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline, "a worker outlives its driver"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [(signal.SIGINT, 130, "Interrupted. "), (signal.SIGTERM, 143, "Terminated. "), (signal.SIGKILL, -9, "")],
)
def test_a_driver_that_ends_leaves_nothing_running_and_is_resumed(
    sent: signal.Signals, code: int, says: str, root: Path
) -> None:
    Path("fault-beta").write_text("sleep")
    driver = start(root)
    worker = wait_for(Path("fault-beta.reached"))
    while "alpha" not in status():
        time.sleep(0.05)
    if sent == signal.SIGINT:
        os.killpg(driver.pid, sent)  # Ctrl-C reaches the workers too
    else:
        driver.send_signal(sent)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == code
    assert said == (f"{says}The same command goes on where this one ended: finished runs are kept.\n" if says else "")
    assert_ends(worker)
    assert status() == {"alpha": "ok"}
    (before,) = load_all(Path("results"))
    Path("fault-beta").unlink()
    if sent == signal.SIGKILL:
        assert main(options(root)) == 0
        assert status() == {"alpha": "ok", "beta": "ok"}
        assert load_all(Path("results"))[0] == before


def test_two_benches_at_once_share_the_cells(root: Path) -> None:
    both = [start(root, "--seeds", "0", "1", "2", workers) for workers in ("--retries=0", "--retries=1")]
    said = [bench.communicate(timeout=900) for bench in both]
    assert [bench.returncode for bench in both] == [0, 0], said
    ran = [
        line for out, _ in said for line in out.splitlines() if line.startswith("faulty ") and "shots=2 seed" in line
    ]
    own = [line.partition(":")[0] for line in ran if "(by another bench)" not in line]
    assert sorted(own) == sorted(f"faulty {category} shots=2 seed={seed}" for category in ALL for seed in range(3))


def test_last_words() -> None:
    assert _last_words(3) == "its process ended with exit code 3"
    assert _last_words(-signal.SIGSEGV) == "its process was killed by SIGSEGV"
