"""Ray for real: a cluster of two nodes on this machine, one of which is killed midway."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anomaly_zoo.bench import main
from anomaly_zoo.results import Result, load_all

TESTS = Path(__file__).parents[1]


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS.parent / "src")]))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_root, tmp_path / "tiny"))


@pytest.fixture
def cluster(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()  # type: ignore[no-untyped-call]


def options(root: Path, *more: str) -> list[str]:
    small = ["--method", "patchcore", "--root", str(root), "--shots", "1", "--image-size", "64"]
    return [*small, "--seeds", *map(str, range(4)), *more]


def essence(results: list[Result]) -> list[Any]:
    return [(result.status, result.error, result.cell, result.metrics, result.images) for result in results]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_lost_node_loses_nothing_and_the_scores_are_those_of_one_process(root: Path, cluster: Any) -> None:
    def lose_a_node() -> None:
        while len(load_all(Path("results"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)

    killer = threading.Thread(target=lose_a_node)
    killer.start()
    assert main(options(root, "--engine", "ray", "--address", cluster.address, "--retries", "3")) == 0
    killer.join()
    assert main(options(root, "--results", "alone")) == 0
    there, alone = load_all(Path("results")), load_all(Path("alone"))
    assert len(there) == 8
    assert essence(there) == essence(alone)
    pictures = [path.name for path in sorted(Path("results/tiny/alpha/patchcore/shots=1/seed=0/pictures").iterdir())]
    assert pictures == [f"{kind}_00{number}.png" for kind in ("good", "large", "small") for number in (0, 1)]


def test_without_a_cluster_it_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    assert main(options(root, "--engine", "ray", "--address", "127.0.0.1:1")) == 2
    assert capsys.readouterr().err.startswith("error: no Ray cluster answers at 127.0.0.1:1 (")


def test_without_ray_it_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(options(root, "--seeds", "0", "--engine", "ray")) == 2
    assert capsys.readouterr().err == "error: --engine ray needs Ray: pip install 'anomaly_zoo[ray]'\n"
