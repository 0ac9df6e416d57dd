import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_zoo.compare.report import gallery
from anomaly_zoo.compare.report.gallery import Tile
from anomaly_zoo.pictures import _COLOURS
from anomaly_zoo.results import Result, load_all
from tests.runs import scored


def runs_of(store: Path, category: str) -> dict[str, Result]:
    return {r.method: r for r in load_all(store) if (r.category, r.shots, r.seed) == (category, 8, 0)}


def test_shares_count_the_other_kind_on_the_wrong_side() -> None:
    run = scored("coft", 0, [0.0, 0.5, 1.0, 0.5, 2.0], 3)
    assert [round(share, 6) for share in gallery.shares(run).values()] == [0.0, 0.25, 0.5, 0.5, 0.0]
    auroc = 1 - np.mean(list(gallery.shares(run).values())[3:])
    assert auroc == pytest.approx(run.metrics["image_auroc"])


def test_rows_show_all_methods_worst_misses_first(store: Path) -> None:
    runs = runs_of(store, "bottle")
    rows = gallery.rows(store, runs, 12)
    assert len(rows) == 12
    assert [row.miss for row in rows] == sorted((row.miss for row in rows), reverse=True)
    for row in rows:
        assert [method for method, *_ in row.maps] == list(runs)
        shares = [gallery.shares(runs[method])[row.name] for method in runs]
        assert [share for *_, share in row.maps] == shares
        assert row.miss == pytest.approx(np.mean(shares))
        assert (row.truth is not None) == (row.defect != "") == ("good" not in row.name)
        with Image.open(io.BytesIO(base64.b64decode(row.image.partition(",")[2]))) as picture:
            assert picture.size == (32, 32)
    assert gallery.rows(store, runs, 5) == rows[:5]


def test_a_category_without_masks_or_pictures(store: Path) -> None:
    assert all(row.truth is None for row in gallery.rows(store, runs_of(store, "<mono>"), 12))
    assert gallery.rows(store, runs_of(store, "screw"), 12) == []


def test_a_method_without_pictures_has_no_map(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    runs = runs_of(copy, "bottle")
    shutil.rmtree(runs["pf"].path_in(copy).with_suffix(""))
    rows = gallery.rows(copy, runs, 3)
    assert [[uri is None for _, uri, _ in row.maps] for row in rows] == [[name == "pf" for name in runs]] * 3


@pytest.mark.parametrize("damage", ["sheet", "index", "missing"])
def test_damaged_pictures_are_named(damage: str, store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    runs = runs_of(copy, "bottle")
    folder = runs["pf"].path_in(copy).with_suffix("") / "gallery"
    if damage == "sheet":
        Image.new("L", (32, 32)).save(folder / "maps.png")
    elif damage == "index":
        (folder / "index.json").write_text(json.dumps({"paths": []}))
    else:
        (folder / "masks.png").unlink()
    with pytest.raises(ValueError, match=r"gallery is damaged .*: delete the folder"):
        gallery.rows(copy, runs, 3)


def test_the_outline_is_the_border_of_the_mask_and_heat_follows_the_map() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    ramp = np.tile(np.linspace(0, 255, 20).astype(np.uint8), (20, 1))
    tile = Tile(np.full((20, 20, 3), 90, np.uint8), mask, ramp)
    magenta = (gallery.outlined(tile) == (255, 0, 255)).all(axis=-1)
    expected = mask.copy()
    expected[7:13, 7:13] = False
    np.testing.assert_array_equal(magenta, expected)
    heat = gallery.heat(tile)
    np.testing.assert_array_equal(heat[0, 0], (0.3 * 90 + 0.7 * np.array(_COLOURS[0])).astype(np.uint8))
    np.testing.assert_array_equal(heat[0, -1], (0.3 * 90 + 0.7 * np.array(_COLOURS[-1])).astype(np.uint8))
