import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anomaly_zoo.data import __main__ as command
from anomaly_zoo.data.__main__ import main
from anomaly_zoo.data.dataset import MVTecDataset
from anomaly_zoo.data.prepare.download import Download
from anomaly_zoo.data.prepare.public_datasets import PUBLIC_DATASETS
from tests.data.prepare.miniatures import ksdd, ksdd2
from tests.data.prepare.test_download import Handler, server
from tests.data.prepare.test_own_folder import folder

__all__ = ["folder", "server"]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list_names_all_with_their_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name, dataset in PUBLIC_DATASETS.items():
        assert name in shown
        assert dataset.licence in shown
        assert (dataset.download is not None) or dataset.by_hand in shown


def test_prepare_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ksdd2(tmp_path / "raw")
    assert main(["prepare", "ksdd2", "--from", "raw", "--max-test", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("CC BY-NC-SA 4.0") == 1
    assert "Please cite: Bozic et al." in shown
    assert "make bench METHOD=frozen SHOTS=4 ROOT=datasets/ksdd2" in shown
    assert main(["prepare", "ksdd2", "--max-test", "1"]) == 0
    assert "Please cite" not in capsys.readouterr().out  # printed once
    assert sum(MVTecDataset(Path("datasets/ksdd2"), "surface", (8, 8)).labels) == 1
    assert main(["list"]) == 0
    assert "prepared in datasets/ksdd2" in capsys.readouterr().out
    assert main(["check", "ksdd2"]) == 0
    assert "4 normal training images" in capsys.readouterr().out
    image = next(iter(Path("datasets/ksdd2/surface/train/good").iterdir()))
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.unlink()
    image.write_bytes(bytes(data))
    next(iter(Path("datasets/ksdd2/surface/test/good").iterdir())).unlink()
    assert main(["check", "ksdd2"]) == 1
    shown = capsys.readouterr().out
    assert f"{image} has changed since the conversion" in shown
    assert "is missing, though checksums.sha256 lists it" in shown


def test_from_the_address_to_the_dataset(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    ksdd(tmp_path / "raw")
    data = Path(shutil.make_archive("published", "zip", tmp_path / "raw")).read_bytes()
    monkeypatch.setitem(Handler.files, "KolektorSDD.zip", data)
    urls = tuple(f"{server}/{manner}/KolektorSDD.zip" for manner in ("missing", "drops"))
    download = Download("KolektorSDD.zip", urls, hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(PUBLIC_DATASETS, "ksdd", dataclasses.replace(PUBLIC_DATASETS["ksdd"], download=download))
    assert main(["prepare", "ksdd"]) == 0
    shown = capsys.readouterr().out
    assert "make bench METHOD=frozen SHOTS=8 ROOT=datasets/ksdd" in shown
    assert "\n\n" not in shown
    assert main(["check", "ksdd"]) == 0
    assert sorted(path.name for path in Path("datasets").iterdir()) == ["downloads", "ksdd"]
    asked = len(Handler.asked)
    shutil.rmtree("datasets/ksdd")
    assert main(["prepare", "ksdd"]) == 0
    assert len(Handler.asked) == asked  # what is downloaded stays


def test_elpv_labels(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("elpv_dataset", reason="needs the package elpv-dataset (extra `embedded`)")
    assert main(["prepare", "elpv", "--labels", "1/3", "--max-test", "3", "--to", "unsure"]) == 0
    about = json.loads(Path("unsure/source.json").read_text())
    assert about["images"]["mono/test/possibly_defective"] == 3
    capsys.readouterr()
    assert main(["prepare", "elpv", "--labels", "1/3", "1", "--max-test", "all", "--to", "whole"]) == 0
    assert "published with" not in capsys.readouterr().out  # chosen otherwise, not damaged
    assert main(["prepare", "ksdd2", "--labels", "1/3"]) == 2
    assert "--labels is for elpv only" in capsys.readouterr().err


def test_a_folder_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"python -m anomaly_zoo.data prepare {folder}" in shown
    assert "make bench METHOD=frozen SHOTS=5 ROOT=datasets/bracket" in shown
    assert main(["prepare", str(folder)]) == 0
    assert main(["check", "datasets/bracket"]) == 0
    shutil.rmtree(folder / "masks" / "small")
    assert main(["check", str(folder)]) == 1
    shown = capsys.readouterr().out
    for number in range(3):  # all of them at once
        assert f"problem: {folder}/anomalous/small/00{number}.png has no mask, though other images" in shown
    assert main(["prepare", str(folder), "--to", "new"]) == 2
    assert "has no mask, though" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "imagenet"], "'imagenet' is neither a dataset (btad, "),
        (["prepare", "mpdd"], "MPDD is not downloaded for you. MPDD: Follow the link"),
        (["prepare", "visa", "--from", "missing.tar"], "there is no missing.tar"),
        (["prepare", "visa", "--max-test", "few"], "--max-test is 'few': choose a number from 1, or all"),
        (["prepare", "visa", "--max-test", "0"], "--max-test is '0': choose a number from 1, or all"),
        (["prepare", "visa", "--num-train", "3"], "--num-train is for a folder of your own only"),
        (["check", "visa"], "datasets/visa is not there: prepare it first, python -m anomaly_zoo.data prepare visa."),
        (["check", "mpdd"], "prepare it first, python -m anomaly_zoo.data prepare mpdd. MPDD: Follow the link"),
        (["check", ""], "'' is neither a dataset"),
        (["prepare", ""], "'' is neither a dataset"),
        (["check", "."], ". holds neither normal/ (a folder of your own) nor <category>/train/good/"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_options_without_effect_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--from", "x.zip"), ("--labels", "1")):
        assert main(["prepare", str(folder), option, value]) == 2
        assert f"error: {option} is for" in capsys.readouterr().err


def test_folders_in_no_layout_say_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(folder)]) == 0
    images = folder / "normal"
    (folder.parent / "parts").mkdir()
    shutil.copytree(images, folder.parent / "parts" / "good")
    for name, path, message in (
        ("prepare", "datasets/bracket", "datasets/bracket is in the MVTec layout already"),
        ("prepare", "datasets/bracket/bracket", "bracket is in the MVTec layout already"),
        ("check", str(folder.parent), f"holds folders of your own: pass one of them, such as {folder}"),
        ("check", str(images), f"move the normal ones of its 10 images into {images}/normal"),
        ("prepare", str(images), f"move the normal ones of its 10 images into {images}/normal"),
        ("check", "parts", "rename parts/good to normal"),
        ("check", str(images / "000.png"), "000.png is a file: check the folder that holds the dataset"),
    ):
        capsys.readouterr()
        assert main([name, path]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_check_finds_what_prepare_would_refuse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("zz.png", "ZZ.png"):
        shutil.copy(folder / "anomalous" / "large" / "000.png", folder / "anomalous" / "large" / name)
    shutil.rmtree(folder / "masks")
    assert main(["check", str(folder)]) == 1
    assert "differ in case only: rename one" in capsys.readouterr().out
    assert main(["prepare", str(folder)]) == 2


def test_only_normal_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "anomalous")
    shutil.rmtree(folder / "masks")
    (folder / "normal" / "gone.png").symlink_to("nowhere")
    assert main(["check", str(folder)]) == 1
    assert "1 problem: mend it first." in capsys.readouterr().out
    (folder / "normal" / "gone.png").unlink()
    for arguments in (["check", str(folder)], ["prepare", str(folder)], ["check", "datasets/bracket"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert "--data.root datasets/bracket --data.category bracket --data.shots 5 --output models/bracket" in shown
        assert "make bench" not in shown


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "convert", interrupted)
    assert main(["prepare", "ksdd2"]) == 130
    assert "goes on with what is downloaded" in capsys.readouterr().err


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import anomaly_zoo.data.__main__; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    start = time.process_time()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
    assert time.process_time() - start < 5
