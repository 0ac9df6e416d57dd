"""One Python file and one YAML file make a method: everything else takes it as it is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from anomaly_zoo.config import resolve
from anomaly_zoo.results import load
from anomaly_zoo.run import run

REPOSITORY = Path(__file__).parents[1]
TESTS = REPOSITORY / "tests"
FILES = [TESTS / "one_gaussian.py", TESTS / "one_gaussian.yaml"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code with a method more."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "src" / "anomaly_zoo", folder / "src" / "anomaly_zoo")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    for name in ("__init__.py", "conftest.py", "test_contract.py"):
        shutil.copy(TESTS / name, folder / "tests")
    shutil.copy(FILES[0], folder / "src" / "anomaly_zoo" / "methods")
    shutil.copy(FILES[1], folder / "configs" / "methods")
    return folder


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "WANDB": "0"}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True)


def image_auroc(root: Path, category: str, seed: int, folder: Path) -> float:
    """Of the example at 8 shots, in 160 px to be quick."""
    method = folder / "one_gaussian.yaml"
    method.write_text("model: {class_path: tests.one_gaussian.OneGaussian}\n")
    options = [f"--data.root={root}", f"--data.category={category}", "--data.shots=8", "--data.image_size=160"]
    options += [f"--seed_everything={seed}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return run(resolve(method, options), "one_gaussian", folder / "results").metrics["image_auroc"]


def test_the_page_shows_the_files_that_are_tested() -> None:
    """A formatter of code in Markdown once took the lines for Python."""
    page = (REPOSITORY / "docs" / "add_a_method.md").read_text()
    assert all(f'\n--8<-- "tests/{file.name}"\n' in page for file in FILES)


def test_a_method_is_forty_lines() -> None:
    lines = [line for file in FILES for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) < 40


def test_it_finds_defects_of_solar_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("elpv_dataset", reason="needs the extra `embedded`")
    from anomaly_zoo.data.prepare import elpv

    monkeypatch.setenv("WANDB", "0")
    root = elpv.prepare(tmp_path / "elpv", max_test=40)
    assert mean(image_auroc(root, "mono", seed, tmp_path) for seed in range(2)) > 0.75


def test_it_finds_defects_of_bottles(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")
    assert image_auroc(shared_data / "mvtec_ad", "bottle", 0, tmp_path) > 0.9


@pytest.mark.slow
def test_the_contract_test_takes_it_in(copy: Path) -> None:
    done = python(copy, "pytest", "tests/test_contract.py", "-k", "one_gaussian", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    contract = (TESTS / "test_contract.py").read_text()
    of_methods = re.findall(r'^def test_\w+\(\s*adapted: Adapted|^@pytest.*"method", METHODS', contract, re.MULTILINE)
    assert f"{len(of_methods)} passed" in done.stdout


@pytest.mark.slow
def test_bench_lists_and_runs_it(copy: Path, tiny_root: Path) -> None:
    listed = python(copy, "anomaly_zoo.bench")
    assert re.search(r"one_gaussian +Mahalanobis distance of patches to one Gaussian", listed.stderr)
    options = ["--root", str(tiny_root), "--shots", "4", "--seeds", "0", "--image-size", "64"]
    done = python(copy, "anomaly_zoo.bench", "--method", "one_gaussian", *options)
    assert done.returncode == 0, done.stderr
    for category in ("alpha", "beta"):
        result = load(copy / "results" / "tiny" / category / "one_gaussian" / "shots=4" / "seed=0.json")
        assert result.status == "ok"
        assert result.metrics["image_auroc"] > 0.8
