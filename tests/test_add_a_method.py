"""One Python file and one YAML file make a method: everything else takes it as it is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_zoo.results import load

REPOSITORY = Path(__file__).parents[1]
YAML = """\
# Distance to the support's mean patch.
#
#   make bench METHOD=toy SHOTS=8

model:
  class_path: anomaly_zoo.methods.toy.Toy
  init_args:
    steps: 2
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's code with a method more."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "src" / "anomaly_zoo", folder / "src" / "anomaly_zoo")
    shutil.copytree(REPOSITORY / "configs", folder / "configs")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    for name in ("__init__.py", "conftest.py", "test_contract.py"):
        shutil.copy(REPOSITORY / "tests" / name, folder / "tests")
    shutil.copy(REPOSITORY / "tests" / "toy.py", folder / "src" / "anomaly_zoo" / "methods")
    (folder / "configs" / "methods" / "toy.yaml").write_text(YAML)
    return folder


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "WANDB": "0"}
    return subprocess.run([sys.executable, "-m", *arguments], cwd=copy, env=environment, capture_output=True, text=True)


def test_the_page_shows_the_file_that_is_tested() -> None:
    """A formatter of code in Markdown once took the line for Python."""
    assert '\n--8<-- "tests/toy.py"\n' in (REPOSITORY / "docs" / "add_a_method.md").read_text()


@pytest.mark.slow
def test_the_contract_test_takes_it_in(copy: Path) -> None:
    done = python(copy, "pytest", "tests/test_contract.py", "-k", "toy", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout
    contract = (REPOSITORY / "tests" / "test_contract.py").read_text()
    of_methods = re.findall(r"^def test_\w+\(\s*(?:adapted: Adapted|method: str)", contract, flags=re.MULTILINE)
    assert f"{len(of_methods)} passed" in done.stdout


@pytest.mark.slow
def test_bench_lists_and_runs_it(copy: Path, tiny_root: Path) -> None:
    listed = python(copy, "anomaly_zoo.bench")
    assert "toy             Distance to the support's mean patch." in listed.stderr
    options = ["--root", str(tiny_root), "--shots", "4", "--seeds", "0", "--image-size", "64"]
    done = python(copy, "anomaly_zoo.bench", "--method", "toy", *options)
    assert done.returncode == 0, done.stderr
    for category in ("alpha", "beta"):
        result = load(copy / "results" / "tiny" / category / "toy" / "shots=4" / "seed=0.json")
        assert result.status == "ok"
        assert result.metrics["image_auroc"] > 0.8
        assert result.resources["trainable_params"] > 0
