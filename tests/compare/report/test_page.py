"""The report as a file: whole, self-contained, and only of runs that may stand side by side."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anomaly_zoo.callbacks.visualization import write_gallery
from anomaly_zoo.compare.__main__ import main
from anomaly_zoo.compare.report.page import write
from anomaly_zoo.compare.runs import frame
from anomaly_zoo.results import Result, load_all, save
from tests.runs import THREE_SEEDS, comparisons, config, failed, run, scored, trained


def written(results: Sequence[Result], folder: Path, store: Path | None = None) -> str:
    write(frame(results), folder / "report.html", store or folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def outside_scripts(page: Path) -> str:
    return re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_nothing_is_fetched_from_elsewhere(page: Path) -> None:
    html = outside_scripts(page)
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", html)
    assert not re.findall(r"url\((?!data:)|@import|<link(?! rel=\"icon\")", html)
    assert "default-src 'none'" in html


def test_names_are_escaped(page: Path) -> None:
    html = outside_scripts(page)
    assert "&lt;mono&gt;" in html
    assert "<mono>" not in html


def test_figures_are_json_that_plotly_understands(page: Path) -> None:
    texts = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    found = [json.loads(text) for text in texts]
    # all datasets and each; two costs; one rank diagram per metric
    assert len(found) == 3 + 2 + 2
    assert all(figure["data"] for figure in found)
    for figure in (found[0], found[3]):  # against shots, against seconds; the baseline is named first, as in the tables
        names = [trace["name"] for trace in figure["data"] if trace.get("name") not in (None, "Pareto front")]
        assert names == ["frozen", "coft", "pf"]
    lines = [trace for trace in found[0]["data"] if trace.get("name") in ("coft", "frozen", "pf")]
    assert [trace["x"] for trace in lines] == [[1, 8]] * 3


def test_claims_that_the_runs_answer_have_a_figure_each(tmp_path: Path) -> None:
    gains = {"bottle": 0.1, "screw": 0.2, "tile": 0.15}
    results = [
        run(method, seed, 0.5 + gain * (method == "pf_paper") + seed / 100, category)
        for method in ("frozen", "pf_paper", "pf_paper:frozen")
        for category, gain in gains.items()
        for seed in (0, 1)
    ]
    html = written(results, tmp_path)
    assert "pf-1: Fine-tuning restores the pruned student." in html
    assert "coft-1" not in html
    found = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', html)]
    (points,) = [trace for figure in found for trace in figure["data"] if "error_x" in trace and "mean" in trace["y"]]
    assert points["y"] == [*(f"mvtec/{category}" for category in gains), "mean"]
    assert points["x"] == pytest.approx([*gains.values(), 0.15])
    assert 'id="claims"' not in written(THREE_SEEDS, tmp_path)


def test_a_single_number_of_shots_has_bars(store: Path, tmp_path: Path) -> None:
    only = [result for result in load_all(store) if result.shots == 8]
    html = written(only, tmp_path, store)
    first = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[0])
    (points,) = first["data"]
    assert points["y"] == ["frozen", "coft", "pf"]
    assert min(*points["error_x"]["array"], *points["error_x"]["arrayminus"]) > 0
    assert "Image AUROC at 8 shots, all datasets, mean over 3 categories" in html


def test_it_says_what_the_comparison_says(page: Path, store: Path) -> None:
    html = outside_scripts(page)
    for test in comparisons(load_all(store)):
        assert f"{test['difference']:+.3f}</td><td>{test['low']:+.3f} to {test['high']:+.3f}" in html
    assert "not measured here" in html  # mvtec_ad is in the store
    assert '"image_size": 256' in html.replace("&#34;", '"')


def test_it_says_which_methods_kept_step_0(tmp_path: Path) -> None:
    results = [trained("coft:no_np", seed, seed, category=name) for seed in range(3) for name in ("bottle", "screw")]
    html = written(results, tmp_path)
    assert '<p class="note">coft:no_np: kept step 0 in 2 of 6 runs</p>' in html


def test_no_path_of_this_machine_gets_in(page: Path, store: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert str(store) not in html
    assert "/data/bottle" not in html


def test_several_protocols_are_refused_with_the_keys_and_the_way_out(tmp_path: Path) -> None:
    mixed = [*THREE_SEEDS, run("coft", 0, 0.9, config=config(image_size=320))]
    said = r"2 protocols.*data.image_size = 256; data.image_size = 320.*--protocol KEY=VALUE"
    with pytest.raises(ValueError, match=said):
        written(mixed, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_failures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run succeeded"):
        written([failed("coft", 0, "boom")], tmp_path)


@pytest.mark.parametrize(
    "results",
    [
        THREE_SEEDS[:1],
        [*THREE_SEEDS, failed("coft", 0, "boom")],
        [replace(run("frozen", 0, 0.5), metrics={}, undefined={"image_auroc": "no normal image"}, timing={})],
    ],
)
def test_small_stores_have_a_report_too(results: Sequence[Any], tmp_path: Path) -> None:
    assert written(results, tmp_path).endswith("</html>")


@pytest.mark.parametrize(("shots", "main"), [((1, 8), 8), ((1, 1, 8), 1)])
def test_the_main_shots_are_those_with_most_runs(tmp_path: Path, shots: tuple[int, ...], main: int) -> None:
    runs = frame([run("a", seed, 0.5, shots=count) for seed, count in enumerate(shots)])
    write(runs, tmp_path / "report.html", tmp_path)
    assert f"Categories, at {main} shots" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_writes_it_and_says_where(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.html"
    assert main([str(store), "--report", str(file), "--shots", "8"]) == 0
    assert f"Report: {file} (" in capsys.readouterr().err
    assert file.stat().st_size < 12e6


@pytest.mark.slow
def test_six_datasets_have_a_report_of_12_mb_at_most(tmp_path: Path) -> None:
    """Four methods on as many categories as six public datasets have, with pictures of real size and much texture."""
    sizes = {"mvtec_ad": 15, "visa": 12, "mpdd": 6, "btad": 3, "elpv": 2, "magnetic_tile": 1}
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 200, (24, 16, 16, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = (blocks + rng.normal(scale=6, size=blocks.shape)).astype(np.uint8)
    for dataset, num_categories in sizes.items():
        for category in range(num_categories):
            for method in ("frozen", "coft", "gaussian", "pf"):
                one = scored(method, 0, rng.normal(size=160).tolist(), 80, dataset=dataset, category=f"c{category}")
                save(one, tmp_path)
                tiles = [
                    {"path": "/".join(image["path"].split("/")[-3:]), "image": picture, "map": picture[..., 0] / 255.0}
                    | {"mask": np.pad(np.full((40, 40), 255, np.uint8), 44)}
                    for image, picture in zip(one.images[60:84], pixels, strict=True)
                ]
                write_gallery(one.path_in(tmp_path).with_suffix("") / "gallery", tiles)
    html = written(load_all(tmp_path), tmp_path)
    assert html.count("data:image/webp") > 800
    assert 6e6 < len(html.encode()) < 12e6
