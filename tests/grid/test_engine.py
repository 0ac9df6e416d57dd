from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.grid import engine
from anomaly_zoo.grid.cells import Cell
from anomaly_zoo.grid.engine import available_mib, cores, share
from anomaly_zoo.grid.progress import Estimate, duration
from anomaly_zoo.results import Result


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (8, 1)),
        ({"cells": 3}, (3, 2)),  # no worker without a cell, and its threads go to the others
        ({"cells": 1}, (1, 8)),
        ({"run_mib": 3000.0}, (3, 2)),  # memory for three
        ({"run_mib": 1e9}, (1, 8)),
        ({"workers": 2}, (2, 4)),
        ({"workers": 20}, (20, 1)),
        ({"threads": 4}, (2, 4)),
        ({"workers": 3, "threads": 1}, (3, 1)),
        ({"gpus": 2}, (2, 4)),
        ({"gpus": 2, "gpu_share": 0.5}, (4, 2)),
    ],
)
def test_cores_are_neither_idle_nor_fought_over(
    options: dict[str, Any], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 8)
    monkeypatch.setattr(engine, "available_mib", lambda: 10_000.0)
    assert share(**{"cells": 100, "run_mib": 500.0, "workers": None, "threads": None} | options) == expected


def test_the_machine_is_seen() -> None:
    assert 1 <= cores() <= 4096
    assert available_mib() > 10


def cell(category: str = "a", shots: int = 1, method: str = "m") -> Cell:
    config = {"data": {"dataset": "d", "category": category, "shots": shots}, "seed_everything": 0}
    return Cell(method, config, Path("r"), "")


def past(seconds: float, category: str = "a", shots: int = 1, status: Any = "ok") -> Result:
    error = None if status == "ok" else "broken"
    return Result(dataset="d", category=category, method="m", shots=shots, seed=0, backbone="b", status=status,
                  error=error, timing={"adapt_s": seconds / 4, "test_s": seconds * 3 / 4},
                  resources={"peak_rss_mib": seconds})  # fmt: skip


def test_estimates_come_from_the_runs_most_alike() -> None:
    estimate = Estimate(
        [past(1.0), past(2.0), past(30.0), past(10.0, shots=2), past(500.0, "b"), past(7.0, status="failed")]
    )
    assert estimate.of(cell()) == 2
    assert estimate.of(cell(shots=2)) == 10
    assert estimate.of(cell(shots=4)) == 6  # the median of this category
    assert estimate.of(cell("c")) == 10  # of the dataset
    assert estimate.of(cell(method="other")) is None


def test_the_total_is_shared_out_but_never_shorter_than_one_run() -> None:
    estimate = Estimate([past(4.0), past(10.0, "b")])
    assert estimate.total([cell(), cell(), cell("b")]) == 18
    assert estimate.total([cell(), cell(), cell("b")], at_once=4) == 10
    assert estimate.total([cell(), cell(method="other")]) is None


def test_an_estimate_learns() -> None:
    estimate = Estimate()
    estimate.learn(past(4.0), seconds=6.0)
    assert estimate.of(cell()) == 6


def test_durations_are_said_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (0.0, 99.0, 120.0, 7200.0)] == ["1 s", "100 s", "2 min", "2.0 h"]
