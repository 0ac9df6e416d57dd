import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.grid import worker
from anomaly_zoo.grid.cells import Cell, grid
from anomaly_zoo.grid.engine import Outcome
from anomaly_zoo.grid.schedule import Schedule, lock_of, unfinished
from anomaly_zoo.results import Result, load, load_all, save
from anomaly_zoo.run import describe

Answer = Callable[[Cell, int], Outcome]


class Fake:
    """An engine that answers as it is told: `answer(cell, how often it was submitted)`."""

    def __init__(self, answer: Answer, slots: int = 2) -> None:
        self.slots, self.answer = slots, answer
        self.submitted: list[str] = []
        self.running: list[Cell] = []
        self.most = 0
        self.closed = False

    def submit(self, cell: Cell) -> None:
        self.submitted.append(cell.name)
        self.running.append(cell)
        self.most = max(self.most, len(self.running))

    def wait(self, timeout_s: float) -> list[Outcome]:
        cell = self.running.pop(0)
        return [self.answer(cell, self.submitted.count(cell.name))]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def cells(tiny_root: Path, tmp_path: Path) -> list[Cell]:
    return grid("patchcore", {"tiny": tiny_root}, ["all"], [1, 2], [0], [], tmp_path / "results")


def ok(cell: Cell, tries: int = 1) -> Outcome:
    result = replace(describe(cell.config, cell.method), metrics={"aupro": 0.5}, cell=cell.identity)
    save(result, cell.store)
    return Outcome(cell, result)


def dies(cell: Cell, tries: int) -> Outcome:
    return Outcome(cell, None, "killed")


def run(cells: list[Cell], answer: Answer = ok, **more: Any) -> tuple[Fake, list[tuple[str, bool]]]:
    """The engine afterwards, and of every cell its status and whether it ran here."""
    engine = Fake(answer)
    ended = list(Schedule(unfinished(cells)[0], engine, **more))
    assert engine.closed
    assert [load(cell.path) for cell, _, _ in ended] == [result for _, result, _ in ended]
    return engine, [(result.status, seconds is not None) for _, result, seconds in ended]


def test_every_cell_runs_once_and_slots_are_filled(cells: list[Cell]) -> None:
    engine, heard = run(cells)
    assert engine.submitted == [cell.name for cell in cells]
    assert engine.most == 2
    assert heard == [("ok", True)] * 4
    assert unfinished(cells)[0] == []
    assert unfinished(cells)[1].keys() == {cell.path for cell in cells}


def test_a_cell_whose_process_died_is_started_again(cells: list[Cell]) -> None:
    engine, heard = run(cells, lambda cell, tries: dies(cell, tries) if tries == 1 else ok(cell), retries=1)
    assert sorted(engine.submitted) == sorted([cell.name for cell in cells] * 2)
    assert heard == [("ok", True)] * 4


def test_but_not_for_ever(cells: list[Cell]) -> None:
    first = cells[0].name
    engine, _ = run(cells, lambda cell, tries: dies(cell, tries) if cell.name == first else ok(cell), retries=2)
    assert engine.submitted.count(first) == 3
    assert len(engine.submitted) == 6
    result = load(cells[0].path)
    assert (result.status, result.error) == ("failed", "ProcessDied: killed (try 3)")
    assert cells[0].log_path.read_text() == "ProcessDied: killed (try 3)\n"
    assert [cell.name for cell in unfinished(cells)[0]] == [first]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_bench_and_keeps_what_was_saved(
    number: int, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_two(config: Any, method: str, store: Path, cell: str) -> Result:
        if len(load_all(store)) == 2:
            raise OSError(number, "full")
        result = replace(describe(config, method), cell=cell)
        save(result, store)
        return result

    monkeypatch.setattr(worker, "warm_up", lambda config: None)
    monkeypatch.setattr(worker, "run", run_two)
    with pytest.raises(OSError, match="full"):
        run(cells, lambda cell, tries: Outcome(cell, worker.execute(cell)))
    assert [result.status for result in load_all(cells[0].store)] == ["ok", "ok"]
    engine, _ = run(cells)
    assert len(engine.submitted) == 2


# Two benches at once


HOLD = """
import sys
from pathlib import Path
from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.schedule import lock_of
data = {"dataset": "tiny", "category": "alpha", "shots": 1}
cell = Cell("patchcore", {"data": data, "seed_everything": 0}, Path(sys.argv[1]), "")
lock = lock_of(cell)
print(lock is not None, flush=True)
sys.stdin.read()
"""


def hold(store: Path) -> "subprocess.Popen[str]":
    """Another process that locks the first cell until it ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    return other


def end(other: "subprocess.Popen[str]") -> None:
    other.kill()
    other.communicate()


def test_a_lock_keeps_other_processes_out_until_its_holder_is_gone(cells: list[Cell]) -> None:
    other = hold(cells[0].store)
    assert [lock_of(cell) is not None for cell in cells] == [False, True, True, True]
    end(other)
    lock = lock_of(cells[0])
    assert lock is not None
    lock.release()
    end(hold(cells[0].store))


@pytest.fixture
def while_waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Says what happens as soon as there is nothing to do but to wait for another bench."""

    def on_sleep(act: Callable[[], None]) -> None:
        monkeypatch.setattr("anomaly_zoo.grid.schedule.time.sleep", lambda seconds: act())

    return on_sleep


def test_a_cell_of_another_bench_is_waited_for_and_not_run(
    cells: list[Cell], while_waiting: Callable[[Callable[[], None]], None]
) -> None:
    other = hold(cells[0].store)

    def the_other_finishes() -> None:
        ok(cells[0])
        end(other)

    while_waiting(the_other_finishes)
    engine, heard = run(cells)
    assert engine.submitted == [cell.name for cell in cells[1:]]
    assert heard == [("ok", True)] * 3 + [("ok", False)]


def test_a_cell_of_another_bench_that_died_is_run(
    cells: list[Cell], while_waiting: Callable[[Callable[[], None]], None]
) -> None:
    other = hold(cells[0].store)
    while_waiting(lambda: end(other))
    engine, _ = run(cells)
    assert engine.submitted == [cell.name for cell in [*cells[1:], cells[0]]]


def test_what_another_bench_made_with_other_settings_is_not_taken(cells: list[Cell]) -> None:
    engine = Fake(ok)
    running = Schedule(cells, engine)
    ok(replace(cells[2], identity="0" * 64))
    with pytest.raises(ValueError, match=r"was made with other settings \(the images or the weights\)"):
        list(running)
    assert engine.closed


def test_what_another_bench_finished_meanwhile_is_not_run_again(cells: list[Cell]) -> None:
    engine = Fake(ok)
    running = Schedule(unfinished(cells, force=True)[0], engine)
    ok(cells[2])
    assert sorted(seconds is not None for _, _, seconds in running) == [False, True, True, True]
    assert cells[2].name not in engine.submitted
