import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.calibration import Calibration
from anomaly_zoo.deploy.inspecting import Inspection, Inspector
from anomaly_zoo.deploy.outputs import PredictionWriter, inspect_files

IMAGE = np.zeros((20, 30, 3), np.uint8)


class Recorded(Inspector):
    """An inspector to which the name of a file is its score."""

    def read(self, path: Path) -> np.ndarray:
        if path.stem == "damaged":
            raise ValueError("cut\noff")
        return np.full((20, 30, 3), int(float(path.stem)), np.uint8)

    def inspect(self, images: Sequence[np.ndarray]) -> list[Inspection]:
        return [found(float(image[0, 0, 0])) for image in images]


MODEL = Recorded(Calibration(0.05, 2.0, 1.0, 0.0, [], [], [], []), ["a guess"])


def found(score: float, decides: bool = True) -> Inspection:
    return Inspection(score, 0.5, 0.25, score > 2 if decides else None, np.full((8, 8), score, np.float32))


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "predictions.csv").read_text(encoding="utf-8").splitlines()))


def test_a_row_a_line_and_an_overlay(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, MODEL) as writer:
        writer.write(Path("a/normal, of course.png"), IMAGE, found(1.5))
        writer.write(Path("b/größe.png"), IMAGE, found(3.0))
        writer.write_unreadable(Path("c.png"), ValueError("cut\noff"))
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["decision"] for line in lines] == ["normal", "anomalous", "unreadable"]
    assert lines[1] == {
        "path": "b/größe.png", "decision": "anomalous", "image_score": 3.0, "threshold": 2.0, "p_value": 0.5,
        "conformal_p_value": 0.25, "map_peak": 3.0, "overlay": "overlays/000001_größe.png", "error": "",
        "mask": "masks/000001_größe.png", "map": "", "file_state": "", "sha256": "",
    }  # fmt: skip
    assert lines[2]["error"] == "cut off"
    assert lines[2]["image_score"] is None
    assert [{key: str(value or "") for key, value in line.items()} for line in lines] == rows(tmp_path)
    assert read_image(tmp_path / lines[1]["overlay"]).shape[1] > 30
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {key: summary[key] for key in ("images", "normal", "anomalous", "unreadable")} == {
        "images": 3, "normal": 1, "anomalous": 1, "unreadable": 1,
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "contact_sheet.png", "masks", "overlays", "predictions.csv", "predictions.jsonl", "summary.json",
    ]  # fmt: skip


def test_files_are_inspected_in_batches_and_damaged_ones_passed_over(tmp_path: Path) -> None:
    names = [Path(name) for name in ("1.png", "3.png", "damaged.png", "4.png", "0.png")]
    with PredictionWriter(tmp_path, MODEL, "none") as writer:
        inspect_files(MODEL, names, writer, batch_size=2)
    assert writer.counts == {"normal": 2, "anomalous": 2, "undecided": 0, "unreadable": 1}
    assert [row["image_score"] for row in rows(tmp_path)] == ["1.0", "3.0", "", "4.0", "0.0"]


@pytest.mark.parametrize(("overlays", "count"), [("none", 0), ("anomalous", 1), ("all", 2)])
def test_overlays_of_the_images_asked_for(overlays: Any, count: int, tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, MODEL, overlays) as writer:
        for score in (1.0, 3.0):
            writer.write(Path("same name.png"), IMAGE, found(score))
    assert len(list(tmp_path.glob("overlays/*"))) == count


def test_the_contact_sheet_keeps_the_highest_scores_and_no_more(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).permutation(200).astype(float).tolist()
    with PredictionWriter(tmp_path, MODEL, "none") as writer:
        for score in scores:
            writer.write(Path(f"{score}.png"), IMAGE, found(score))
            assert len(writer._highest) <= 48
        assert sorted(entry[0] for entry in writer._highest) == list(range(152, 200))
    assert read_image(tmp_path / "contact_sheet.png").shape == (6 * 178, 8 * 160, 3)


def test_a_run_that_was_stopped_has_whole_lines_and_no_summary(tmp_path: Path) -> None:
    def stopped() -> None:
        with PredictionWriter(tmp_path, MODEL) as writer:
            writer.write(Path("a.png"), IMAGE, found(1.0))
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert not (tmp_path / "summary.json").exists()
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize("torn", ["", '{"path": "b.png", "deci', '{"path": "b.png"}'])
def test_watching_goes_on_after_the_lines_of_an_earlier_run(torn: str, tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, MODEL, append=True) as writer:
        writer.write(Path("a.png"), IMAGE, found(1.0), ("1 2 3", "hash"))
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write(torn)
    with PredictionWriter(tmp_path, MODEL, append=True) as writer:
        assert writer.known == {Path("a.png").absolute(): ("1 2 3", "hash")}
        writer.write(Path("b.png"), IMAGE, found(3.0))
    assert [row["path"] for row in rows(tmp_path)] == ["a.png", "b.png"]
    assert (tmp_path / "overlays" / "000001_b.png").is_file()
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["a.png", "b.png"]


def test_lines_of_another_version_are_not_continued(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text('{"path": "a.png", "decision": "normal"}\n')
    with pytest.raises(ValueError, match=r"predictions.jsonl has lines that are not of this version: choose another"):
        PredictionWriter(tmp_path, MODEL, append=True)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "o").write_text("")
    with pytest.raises(NotADirectoryError, match=r"--output .*o is a file: choose another name"):
        PredictionWriter(tmp_path / "o", MODEL)


@pytest.mark.parametrize(("maps", "overlays", "written"), [
    (False, "none", []), (False, "anomalous", ["masks/000001_b.png"]),
    (False, "all", ["masks/000000_a.png", "masks/000001_b.png"]),
    (True, "none", ["maps/000000_a.npy", "maps/000001_b.npy", "masks/000000_a.png", "masks/000001_b.png"]),
])  # fmt: skip
def test_maps_and_masks_have_the_size_of_the_image(
    maps: bool, overlays: Any, written: list[str], tmp_path: Path
) -> None:
    step = np.zeros((8, 8), np.float32)
    step[:, 4:] = 3.0
    with PredictionWriter(tmp_path, MODEL, overlays, maps=maps) as writer:
        writer.write(Path("a.png"), IMAGE, found(1.5))
        writer.write(Path("b.png"), IMAGE, Inspection(3.0, 0.5, 0.25, True, step))
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("ma*/*")) == written
    if maps:
        stretched = np.load(tmp_path / "maps" / "000001_b.npy", allow_pickle=False)
        assert (stretched.shape, stretched.dtype, stretched.min(), stretched.max()) == ((20, 30), np.float32, 0.0, 3.0)
        with Image.open(tmp_path / "masks" / "000001_b.png") as mask:
            assert (np.asarray(mask) == 255 * (stretched > MODEL.scale.threshold)).all()
        assert [row["map"] for row in rows(tmp_path)] == ["maps/000000_a.npy", "maps/000001_b.npy"]


def test_what_is_not_decided_has_pictures_and_no_mask(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, MODEL, maps=True) as writer:
        writer.write(Path("a.png"), IMAGE, found(1.5, decides=False))
    (row,) = rows(tmp_path)
    assert (row["decision"], row["mask"], bool(row["overlay"]), bool(row["map"])) == ("undecided", "", True, True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["undecided"], summary["warnings"]) == (1, ["a guess"])


def test_an_earlier_run_leaves_no_pictures_behind(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, MODEL, "all", maps=True) as writer:
        writer.write(Path("a.png"), IMAGE, found(1.5))
    (tmp_path / "masks" / "mine.png").write_bytes(b"")
    with PredictionWriter(tmp_path, MODEL) as writer:
        writer.write_unreadable(Path("b.png"), ValueError("cut off"))
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == ["masks/mine.png", "predictions.csv", "predictions.jsonl", "summary.json"]
