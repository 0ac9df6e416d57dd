import importlib.util
import json
from pathlib import Path

import pytest

from anomaly_zoo.data.image_files import image_files
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.data.prepare import elpv, tree

if importlib.util.find_spec("elpv_dataset") is None:
    pytest.skip("needs the package elpv-dataset (extra `embedded`)", allow_module_level=True)

TRAIN = {"mono": 294, "poly": 460}
FULL_TEST = {"mono": (294, 313), "poly": (460, 402)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return elpv.prepare(tmp_path_factory.mktemp("datasets") / "elpv")


@pytest.mark.parametrize("category", ["mono", "poly"])
def test_the_default_tree(root: Path, category: str) -> None:
    folder = root / category
    train, good, defective = (image_files(folder / name) for name in ("train/good", "test/good", "test/defective"))
    assert (len(train), len(good), len(defective)) == (TRAIN[category], 80, 80)
    assert not {path.name for path in train} & {path.name for path in good}
    rows = {}
    package = elpv._package_folder()
    for line in (package / "data" / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        rows[Path(name).name] = (float(probability), kind)
    assert {rows[path.name] for path in train + good} == {(0.0, category)}
    assert {rows[path.name] for path in defective} == {(1.0, category)}
    assert train[0].read_bytes() == (package / "data" / "images" / train[0].name).read_bytes()


def test_the_datamodule_takes_it(root: Path) -> None:
    data = MVTecDataModule(root, "mono", shots=2, image_size=64)
    data.setup("test")
    assert (data.dataset, data.defects, data.has_masks) == ("elpv", ["defective"], False)
    batch = next(iter(data.test_dataloader()))
    assert batch.label.all()
    assert not batch.mask.any()


def test_the_full_split_contains_the_default_one(root: Path, tmp_path: Path) -> None:
    full = elpv.prepare(tmp_path / "full", max_test=None)
    for category, (good, defective) in FULL_TEST.items():
        assert len(image_files(full / category / "test" / "good")) == good
        assert len(image_files(full / category / "test" / "defective")) == defective
        for name in ("train/good", "test/good", "test/defective"):
            some, every = ({path.name for path in image_files(tree / category / name)} for tree in (root, full))
            assert some <= every
        assert not {path.name for path in image_files(full / category / "train" / "good")} & {
            path.name for path in image_files(full / category / "test" / "good")
        }


def test_the_draw_never_changes(root: Path) -> None:
    assert [path.name for path in image_files(root / "mono" / "test" / "defective")[:3]] == [
        "cell0002.png",
        "cell0006.png",
        "cell0014.png",
    ]


def test_source_licence_and_citation_lie_beside(root: Path) -> None:
    about = json.loads((root / "source.json").read_text())
    assert about["max_test"] == 80
    assert about["images"]["mono/train/good"] == 294
    assert "CC BY-NC-SA 4.0" in about["licence"] == elpv.ELPV.licence
    assert "Deitsch" in elpv.ELPV.citation


def test_a_second_call_does_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_build", None)
    assert elpv.prepare(str(root)) == root


def test_another_max_test_is_not_passed_off_as_this_one(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match=r"elpv was made with max_test=80, not 5: delete it or choose another"):
        elpv.prepare(root, max_test=5)
    with pytest.raises(ValueError, match=r"max_test is 0: choose 1 or more, or None"):
        elpv.prepare(tmp_path / "new", max_test=0)


def test_labels_in_between(root: Path, tmp_path: Path) -> None:
    rows = {}
    for line in (elpv._package_folder() / "data" / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        rows[Path(name).name] = (round(3 * float(probability)), kind)
    every = elpv.prepare(tmp_path / "all", max_test=None, labels=("1", "1/3", "2/3"))
    for category in ("mono", "poly"):
        for thirds, defect in {1: "possibly_defective", 2: "probably_defective", 3: "defective"}.items():
            found = {path.name for path in image_files(every / category / "test" / defect)}
            assert found == {name for name, label in rows.items() if label == (thirds, category)}
    some = elpv.prepare(tmp_path / "some", max_test=5, labels=["2/3"])
    assert sorted(path.name for path in (some / "mono" / "test").iterdir()) == ["good", "probably_defective"]
    assert len(image_files(some / "mono" / "test" / "probably_defective")) == 5
    with pytest.raises(FileExistsError, match=r"was made with labels=None, not 2/3: delete it"):
        elpv.prepare(root, labels=("2/3",))
    with pytest.raises(FileExistsError, match=r"was made with labels=2/3, not None"):
        elpv.prepare(some, max_test=5)
    with pytest.raises(ValueError, match=r"there is no label '0.5': choose among 1, 2/3, 1/3"):
        elpv.prepare(tmp_path / "new", labels=("0.5",))


def test_a_tree_from_before_there_were_labels_is_still_good(tmp_path: Path) -> None:
    target = elpv.prepare(tmp_path / "elpv", max_test=1)
    about = json.loads((target / "source.json").read_text())
    del about["labels"]
    (target / "source.json").write_text(json.dumps(about))
    assert elpv.prepare(target, max_test=1) == target


def test_from_a_clone_of_its_repository(root: Path, tmp_path: Path) -> None:
    clone = elpv.prepare(tmp_path / "elpv", raw=elpv._package_folder())
    assert (clone / "checksums.sha256").read_text() == (root / "checksums.sha256").read_text()


def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install elpv-dataset \(or anomaly_zoo\[embedded\]\)"):
        elpv.prepare(tmp_path / "elpv")


def test_a_changed_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package" / "data").mkdir(parents=True)
    labels = tmp_path / "package" / "data" / "labels.csv"
    monkeypatch.setattr(elpv, "_package_folder", lambda: tmp_path / "package")
    labels.write_text("images/a.png 0.0 mono\n")
    with pytest.raises(ValueError, match=r"lists 1 images instead of 2624: reinstall elpv-dataset"):
        elpv.prepare(tmp_path / "elpv")
    labels.write_text("images/a.png 0.0 mono\n" * 2624)
    with pytest.raises(FileNotFoundError, match=r"a\.png is missing: unpack or install the dataset again"):
        elpv.prepare(tmp_path / "elpv")
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
