import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.grid import schedule
from anomaly_zoo.grid.cells import Cell, grid
from anomaly_zoo.grid.claims import Claims
from anomaly_zoo.grid.engine import Outcome
from anomaly_zoo.grid.schedule import DiskFullError, Schedule, unfinished
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


class Ears:
    def __init__(self) -> None:
        self.heard: list[tuple[str, bool]] = []
        self.on_waiting: Callable[[int], None] = lambda elsewhere: None

    def started(self, cell: Cell) -> None:
        pass

    def ended(self, cell: Cell, result: Result, here: bool) -> None:
        self.heard.append((result.status, here))

    def waiting(self, elsewhere: int) -> None:
        self.on_waiting(elsewhere)


@pytest.fixture
def cells(tiny_root: Path, tmp_path: Path) -> list[Cell]:
    return grid("patchcore", {"tiny": tiny_root}, ["all"], [1, 2], [0], [], tmp_path / "results")[0]


def ok(cell: Cell, tries: int = 1) -> Outcome:
    return Outcome(cell, Result(**describe(cell.config, cell.method), metrics={"aupro": 0.5}, cell=cell.identity))


def dies(cell: Cell, tries: int) -> Outcome:
    return Outcome(cell, None, "killed")


def run(cells: list[Cell], answer: Answer = ok, ears: Ears | None = None, **more: Any) -> tuple[Fake, Ears]:
    engine, ears = Fake(answer), ears or Ears()
    results = Schedule(unfinished(cells)[0], engine, ears, **more).run()
    assert engine.closed
    assert {path: load(path) for path in results} == results
    return engine, ears


def test_every_cell_runs_once_and_slots_are_filled(cells: list[Cell]) -> None:
    engine, ears = run(cells)
    assert engine.submitted == [cell.name for cell in cells]
    assert engine.most == 2
    assert ears.heard == [("ok", True)] * 4
    assert unfinished(cells)[0] == []
    assert unfinished(cells)[1].keys() == {cell.path for cell in cells}


def test_a_cell_whose_process_died_is_started_again(cells: list[Cell]) -> None:
    engine, ears = run(cells, lambda cell, tries: dies(cell, tries) if tries == 1 else ok(cell), retries=1)
    assert sorted(engine.submitted) == sorted([cell.name for cell in cells] * 2)
    assert ears.heard == [("ok", True)] * 4


def test_but_not_for_ever(cells: list[Cell]) -> None:
    first = cells[0].name
    engine, _ = run(cells, lambda cell, tries: dies(cell, tries) if cell.name == first else ok(cell), retries=2)
    assert engine.submitted.count(first) == 3
    assert len(engine.submitted) == 6
    result = load(cells[0].path)
    assert (result.status, result.error) == ("failed", "ProcessDied: killed (try 3)")
    assert cells[0].log_path.read_text() == "ProcessDied: killed (try 3)\n"
    assert [todo.cell.name for todo in unfinished(cells)[0]] == [first]


def test_scores_that_are_not_finite_make_a_failed_cell(cells: list[Cell]) -> None:
    def infinite(cell: Cell, tries: int) -> Outcome:
        result = ok(cell).result
        assert result is not None
        return Outcome(cell, replace(result, metrics={"aupro": float("nan")}))

    run(cells[:1], infinite)
    result = load(cells[0].path)
    assert result.status == "failed"
    assert "metrics.aupro is nan" in (result.error or "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_bench_and_keeps_what_was_saved(
    number: int, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[Path] = []

    def save_two(result: Result, store: Path) -> Path:
        if len(saved) == 2:
            raise OSError(number, "full")
        saved.append(save(result, store))
        return saved[-1]

    monkeypatch.setattr(schedule, "save", save_two)
    with pytest.raises(DiskFullError, match=r"is full: .* could not be saved"):
        run(cells)
    monkeypatch.undo()
    assert [result.status for result in load_all(cells[0].store)] == ["ok", "ok"]
    engine, _ = run(cells)
    assert len(engine.submitted) == 2


# Two benches at once


HOLD = """
import sys
from pathlib import Path
from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.claims import Claims
data = {"dataset": "tiny", "category": "alpha", "shots": 1}
cell = Cell("patchcore", {"data": data, "seed_everything": 0}, Path(sys.argv[1]), "")
print(Claims().take(cell), flush=True)
sys.stdin.read()
"""


def hold(store: Path) -> "subprocess.Popen[str]":
    """Another process that claims the first cell until it ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    return other


def end(other: "subprocess.Popen[str]") -> None:
    other.kill()
    other.communicate()


def test_a_claim_keeps_other_processes_out_until_its_holder_is_gone(cells: list[Cell]) -> None:
    other, claims = hold(cells[0].store), Claims()
    assert [claims.take(cell) for cell in cells] == [False, True, True, True]
    end(other)
    assert claims.take(cells[0])
    claims.close()


def test_a_released_claim_can_be_taken(cells: list[Cell]) -> None:
    claims = Claims()
    assert claims.take(cells[0])
    claims.release(cells[0])
    end(hold(cells[0].store))
    claims.close()


def test_a_cell_of_another_bench_is_waited_for_and_not_run(cells: list[Cell]) -> None:
    other, ears = hold(cells[0].store), Ears()

    def the_other_finishes(elsewhere: int) -> None:
        if len(ears.heard) == 3 and other.poll() is None:
            result = ok(cells[0]).result
            assert result is not None
            save(result, cells[0].store)
            end(other)

    ears.on_waiting = the_other_finishes
    engine, _ = run(cells, ears=ears)
    assert engine.submitted == [cell.name for cell in cells[1:]]
    assert ears.heard == [("ok", True)] * 3 + [("ok", False)]


def test_a_cell_of_another_bench_that_died_is_run(cells: list[Cell]) -> None:
    other, ears = hold(cells[0].store), Ears()
    ears.on_waiting = lambda elsewhere: end(other) if len(ears.heard) == 3 and other.poll() is None else None
    engine, _ = run(cells, ears=ears)
    assert engine.submitted == [cell.name for cell in [*cells[1:], cells[0]]]


def test_what_another_bench_made_with_other_settings_is_not_taken(cells: list[Cell]) -> None:
    todo, _ = unfinished(cells)
    result = ok(cells[2]).result
    assert result is not None
    save(replace(result, cell="0" * 64), cells[2].store)
    engine = Fake(ok)
    with pytest.raises(ValueError, match=r"was made with other settings \(the images or the weights\)"):
        Schedule(todo, engine, Ears()).run()
    assert engine.closed


def test_what_another_bench_finished_meanwhile_is_not_run_again(cells: list[Cell]) -> None:
    todo, _ = unfinished(cells, force=True)
    result = ok(cells[2]).result
    assert result is not None
    save(result, cells[2].store)
    engine, ears = Fake(ok), Ears()
    Schedule(todo, engine, ears).run()
    assert cells[2].name not in engine.submitted
    assert sorted(ears.heard) == [("ok", False)] + [("ok", True)] * 3
