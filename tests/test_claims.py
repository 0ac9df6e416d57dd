"""What the papers claim, checked on finished runs and on new ones; and what is said of mistakes."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import yaml

from anomaly_zoo.bench import fill
from anomaly_zoo.claims import main
from anomaly_zoo.compare import answers
from anomaly_zoo.compare.paper_claims import Claim, read
from anomaly_zoo.compare.runs import frame
from anomaly_zoo.results import Result, load_all, save
from tests.runs import config, run

KEPT = Path(__file__).parents[1] / "benchmarks/results/shots8.jsonl.xz"
CATEGORIES = ("bottle", "screw", "tile", "mono", "poly")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB", "0")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def claims_file(folder: Path, **claims: Any) -> Path:
    about = {"claim": "It helps.", "source": "A paper, abstract", "differs": "All."}
    file = folder / "claims.yaml"
    file.write_text(yaml.safe_dump({name.replace("_", "-"): {**about, **claim} for name, claim in claims.items()}))
    return file


@pytest.fixture
def own_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Claims about methods that train nothing."""
    file = claims_file(
        tmp_path,
        a_1={"better": [["patchcore:views", "patchcore"]]},
        a_2={"equal": ["frozen", "patchcore"], "margin": 0.02, "metric": "aupro"},
    )
    monkeypatch.setattr("anomaly_zoo.claims.read", lambda only=(): read(file, only))
    return file


def finished(**by_method: float) -> list[Result]:
    """Each method has its AUROC less what depends on the category and, by less, on the seed."""
    return [
        run(method, seed, auroc - place / 20 - seed / 100 * (method == "pf_paper"), category)
        for method, auroc in by_method.items()
        for place, category in enumerate(CATEGORIES)
        for seed in range(3)
    ]


def judged(results: list[Result], **claim: Any) -> answers.Answer:
    (answer,) = answers.judge(frame(results), {"a-1": Claim(claim="", source="", differs="", **claim)})
    return answer


# The file


def test_the_claims_of_the_three_papers() -> None:
    claims = read()
    papers = [name.partition("-")[0] for name in claims]
    assert [papers.count(paper) for paper in ("pf", "coft", "gauss")] == [5, 4, 5]
    assert len(claims["pf-3"].pairs) == 21
    assert (claims["pf-1"].border, claims["pf-3"].border, claims["gauss-5"].border) == (0.005, -0.02, -0.02)
    assert list(read(only=["pf-1"])) == list(claims)
    for name in claims:
        assert f"\n### {name}: " in (Path(__file__).parents[1] / "docs/claims.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"better": [["pf_papr", "patchcore"]]}, "method 'pf_papr' is unknown. Did you mean pf_paper?"),
        (
            {"better": [["pf_paper:frozn", "pf_paper"]]},
            "pf_paper has no variant 'frozn'. Did you mean pf_paper:frozen?",
        ),
        ({"better": [["pf", "frozen"]], "metric": "image_aurok"}, "no metric 'image_aurok'. Did you mean image_auroc?"),
        ({"better": [["pf", "frozen"]], "metrc": "aupro"}, "unknown field `metrc`"),
        ({"better": [["pf"]]}, "Expected `array` of length 2"),
        ({"better": "pf"}, "Expected `array`, got `str`"),
        ({"equal": ["pf", "frozen"]}, "it needs either better, or equal with a margin above 0"),
        ({"equal": ["pf"], "margin": 0.1}, "equal needs two rows or more"),
        ({}, "it needs either better, or equal with a margin above 0"),
    ],
)
def test_a_wrong_claim_is_named_in_one_line(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = claims_file(tmp_path, a_1=wrong)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read(file)
    assert str(caught.value).startswith(str(file))
    assert "a-1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"claims.yaml: .*line 1"):
        read(tmp_path / "claims.yaml")


def test_compare_reads_a_file_of_kept_results_and_writes_none(capsys: pytest.CaptureFixture[str]) -> None:
    from anomaly_zoo.compare.__main__ import main as compare

    assert compare([str(KEPT), "--by", "dataset", "--methods", "pf"]) == 0
    assert "elpv · average over the common categories (2) · shots=8" in capsys.readouterr().out
    assert compare([str(KEPT), "--run"]) == 2
    assert capsys.readouterr().err.endswith("is a file of kept results: new runs need a folder. It can only be read.\n")


# Verdicts


def test_differences_are_seed_by_seed_and_by_category() -> None:
    results = [*finished(pf_paper=0.9, frozen=0.8), run("pf_paper", 9, 0.1)]  # no other row has seed 9
    answer = judged(results, better=[("pf_paper", "frozen")])
    (pair,) = answer.comparisons
    assert pair.per_seed == {f"mvtec/{name}": pytest.approx([0.1, 0.09, 0.08]) for name in CATEGORIES}
    assert pair.difference is not None
    assert pair.difference.mean == pytest.approx(0.09)
    assert answer.verdict == "cannot tell"  # nothing varies between categories, and five are too few for a sign test
    assert (answer.needed_categories, answer.needed_seeds) == (6, None)


def test_a_part_that_nothing_measures_keeps_a_claim_from_holding() -> None:
    results = [
        run(m, 0, 0.8 + 0.1 * (m == "pf") + p * p / 1000, c) for p, c in enumerate(CATEGORIES) for m in ("pf", "frozen")
    ]
    results += [run("frozen", 1, 0.5, "bottle"), run("pf", 1, 0.61, "bottle")]
    claim: dict[str, Any] = {"better": [("pf", "frozen")]}
    assert judged(results, **claim).verdict == "holds"
    answer = judged(results, **claim, lacks="the rest")
    assert answer.verdict == "cannot tell"
    assert "Not measured: the rest." in answers.what_would_tell(answer)
    assert judged(results, better=[("frozen", "pf")], lacks="the rest").verdict == "does not hold"


def test_what_is_not_measured_says_what_lacks() -> None:
    answer = judged(finished(pf=0.9, frozen=0.8), better=[("pf", "frozen"), ("pf", "pf:random")])
    assert (answer.verdict, answer.lacking) == ("not measured", ["pf:random"])
    apart = [run("pf", 0, 0.5), run("frozen", 1, 0.5)]
    answer = judged(apart, better=[("pf", "frozen")])
    assert answers.what_would_tell(answer) == "Not measured: no runs of both rows with the same seed."
    no_masks = [run(method, 0, 0.5, metrics={"image_auroc": 0.5}) for method in ("pf", "frozen")]
    assert judged(no_masks, better=[("pf", "frozen")], metric="aupro").verdict == "not measured"


def test_runs_of_several_protocols_share_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    for method, size in (("pf_paper", 256), ("pf_paper:frozen", 320)):
        save(run(method, 0, 0.8, config=config(image_size=size)), Path("results"))
    assert main(["--no-run"]) == 2
    said = capsys.readouterr().err
    assert "2 protocols, which must not share a verdict: data.image_size = 256; data.image_size = 320" in said
    assert main(["--no-run", "--protocol", "data.image_size=256"]) == 0
    assert "no run of pf_paper:frozen" in capsys.readouterr().out


def test_an_option_that_is_gone_and_never_changed_a_score_splits_nothing() -> None:
    results = [run("pf", 0, 0.8, config=config(cache_mib=64)), run("frozen", 0, 0.7)]
    assert judged(results, better=[("pf", "frozen")]).comparisons[0].difference is not None


# The command


def test_the_kept_runs_answer_what_they_can_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(KEPT), "--no-run", "--format", "json"]) == 0
    found = {answer["name"]: answer for answer in json.loads(capsys.readouterr().out)}
    measured = {name: answer["verdict"] for name, answer in found.items() if answer["verdict"] != "not measured"}
    expected = {"pf-1": "holds", "coft-2": "cannot tell", "gauss-1": "cannot tell", "gauss-5": "cannot tell"}
    assert measured == expected
    assert found["pf-1"]["comparisons"][0]["interval"] == pytest.approx([0.1035, 0.5192], abs=1e-4)
    page = (Path(__file__).parents[1] / "docs/claims.md").read_text()
    for name, answer in found.items():
        (line,) = re.findall(rf"^\| {name} \|.*$", page, re.MULTILINE)
        assert line.rstrip(" |").endswith(answer["verdict"])


def test_each_format(capsys: pytest.CaptureFixture[str]) -> None:
    for result in finished(**{"pf_paper": 0.9, "pf_paper:frozen": 0.8}):
        save(result, Path("results"))

    def said(*options: str) -> str:
        assert main(["--no-run", "--claim", "pf-1", "pf-2", *options]) == 0
        return capsys.readouterr().out

    text = said()
    assert re.search(r"pf-1 +pf_paper - pf_paper:frozen +5 x 3 +\+0.090 .*  > 0.005 ", text)
    assert "pf-2: Pruning helps the student, and so do its pre-trained weights. Not measured: no run of" in text
    assert said("--format", "md").startswith(
        "### claims of Zhang et al. (INDIN 2023) · 8 shots · image AUROC where none is named\n\n| claim | rows |"
    )
    assert r"\toprule" in said("--format", "latex")
    first, *rest = csv.DictReader(io.StringIO(said("--format", "csv")))
    assert float(first["mean"]) == pytest.approx(0.09)
    assert [row["verdict"] for row in rest] == ["not measured"] * 2
    (one, two) = json.loads(said("--format", "json"))
    assert one["comparisons"][0]["difference"]["mean"] == float(first["mean"])
    assert two["comparisons"][0]["difference"] is None


def test_options_choose_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    results = finished(**{"pf_paper": 0.9, "pf_paper:frozen": 0.8})
    for result in results:
        save(result, Path("results"))

    def shape(*options: str) -> Any:
        assert main(["--no-run", "--claim", "pf-1", "--format", "json", *options]) == 0
        found = json.loads(capsys.readouterr().out)[0]["comparisons"][0]["difference"]
        return found["categories"], found["seeds"]

    assert shape() == (5, 3.0)
    assert shape("--seeds", "0", "2") == (5, 2.0)
    assert shape("--root", "there/mvtec") == (5, 3.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--claim", "pf-9", "--no-run"], "no claim 'pf-9'. Did you mean pf-5?"),
        (["--shotz", "8"], "unrecognized arguments: --shotz. Did you mean --shots?"),
        (["--no-run"], "no run at 8 shots in results for these options: leave --no-run out"),
        (["missing", "--no-run", "--shots", "4"], "no run at 4 shots in missing"),
        (["--root", "missing", "--claim", "pf-1"], "missing is not a folder. Pass --root"),
        (["kept.xz", "--root", "."], "kept.xz is a file of kept results: new runs need a folder"),
        (["kept.xz", "--no-run"], "kept.xz is neither a results store nor a file of kept results"),
    ],
)
def test_a_mistake_gets_one_line_at_once(options: list[str], said: str) -> None:
    Path("kept.xz").write_bytes(b"nothing")
    code = f"import sys; from anomaly_zoo.claims import main; code = main({options}); assert 'torch' not in sys.modules"
    begin = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(code)"], capture_output=True, text=True, check=False
    )
    assert perf_counter() - begin < 3  # a second, on a machine that does nothing else
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("results").exists()


def test_new_runs_are_made_and_finished_ones_are_kept(
    tiny_root: Path, own_claims: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["--root", str(tiny_root), "--shots", "2", "--seeds", "0", "1", "--image-size", "64"]
    assert main([*request, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Missing: patchcore:views (4), patchcore (4), frozen (4)" in said
    assert "0 of 12 runs are finished; the other 12 should take unknown" in said
    assert not Path("results").exists()
    assert main([*request, "--format", "json", "--claim", "a-1"]) == 0
    out, err = capsys.readouterr()
    (answer,) = json.loads(out)  # nothing else is on stdout
    assert list(answer["comparisons"][0]["per_seed"]) == ["tiny/alpha", "tiny/beta"]
    assert answer["verdict"] in ("holds", "does not hold", "cannot tell")
    assert "patchcore:views alpha shots=2 seed=0" in err
    made = {result.path_in(Path("results")): result.started for result in load_all(Path("results"))}
    assert len(made) == 8
    assert main(["--shots", "2", "--engine", "serial"]) == 0  # the store says where its datasets lie
    out, err = capsys.readouterr()
    assert "Missing: frozen (4)" in err
    assert "a-2" in out
    assert made.items() <= {r.path_in(Path("results")): r.started for r in load_all(Path("results"))}.items()
    assert main(["--shots", "2", "--dry-run"]) == 0  # nothing is missing
    assert capsys.readouterr().out == ""


def test_one_product_is_told_how_many_more_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for result in finished(**{"pf_paper": 0.9, "pf_paper:frozen": 0.88})[::5]:
        save(result, Path("results"))
    for method, auroc in (("pf_paper", 0.9), ("pf_paper:frozen", 0.89)):
        for seed in range(3):
            save(
                run(method, seed, auroc + seed / 100 * (method == "pf_paper"), "part", dataset="parts"), Path("results")
            )
    assert main(["--no-run", "--root", "parts", "--claim", "pf-1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"1 x 3 +\+0.020 +— +> 0.005 +— +cannot tell", out)
    assert re.search(r"It would take about \d+ categories\.", out)


def test_a_failed_run_is_said_and_the_rest_is_judged(
    tiny_root: Path, own_claims: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("anomaly_zoo.grid.worker.run", fails)
    request = ["--root", str(tiny_root), "--shots", "2", "--seeds", "0", "--image-size", "64", "--claim", "a-1"]
    assert main(request) == 1
    out, err = capsys.readouterr()
    assert "4 of 4 runs failed" in err
    assert "not measured" in out


def test_nothing_to_fill_is_done() -> None:
    assert fill([]) == 0
