"""A finished grid of 1,000 cells: the same command finds out that nothing is left, without torch."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_zoo.grid.cells import grid, remember
from anomaly_zoo.results import ImageScore, Result, save

RESUME = """
import sys
from anomaly_zoo.bench import main
code = main(sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
SHOTS, SEEDS = ["1", "2", "3", "4", "5"], [str(seed) for seed in range(100)]


@pytest.mark.slow
def test_a_finished_grid_of_1000_cells_is_recognised_in_3_seconds(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)  # no power cut is expected
    store = tmp_path / "results"
    cells = grid("patchcore", {"tiny": tiny_root}, ["all"], [*map(int, SHOTS)], [*map(int, SEEDS)], [], store)
    remember(cells)
    images = [ImageScore(path=f"alpha/test/{i}.png", defect="x" * (i % 2), label=i % 2 > 0, score=i) for i in range(80)]
    for cell in cells:
        data = cell.config["data"]
        result = Result(
            dataset="tiny", category=data["category"], method="patchcore", shots=data["shots"],
            seed=cell.config["seed_everything"], backbone="b", metrics={"image_auroc": 0.5}, timing={"adapt_s": 1.0},
            config=cell.config, cell=cell.identity, images=images,
        )  # fmt: skip
        assert save(result, store) == cell.path
    assert len(cells) == 1000

    command = [sys.executable, "-c", RESUME, "--method", "patchcore", "--root", str(tiny_root), "--results", str(store)]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*command, "--shots", *SHOTS, "--seeds", *SEEDS], capture_output=True, text=True)
    wall_s = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout.startswith("1000 of 1000 runs are finished already")
    print(f"start to exit, table included: {wall_s:.2f} s, of it on the processor {cpu_s:.2f} s")  # noqa: T201
    assert cpu_s < 3  # other processes must not decide it
