"""Markdown and LaTeX that others can render, numbers at full precision, nothing lost on the way."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown import markdown as render

from anomaly_zoo.compare import writers
from anomaly_zoo.compare.tables import Entry, Table, evidence, published, scores
from tests.compare.test_significance import pair
from tests.runs import NO_MASKS, THREE_SEEDS, TWO_SEEDS, config, run, summarised, trained

ODD = run("a_b%c", 0, 0.7)


def test_markdown_is_a_table_with_the_best_in_bold() -> None:
    text = writers.markdown(scores(summarised([*THREE_SEEDS, *TWO_SEEDS, ODD])))
    page = render(text, extensions=["tables"])
    assert page.count("<table>") == 1
    assert page.count("<tr>") == 1 + 3 + 2
    assert "<strong>0.880 ± 0.028</strong>" in page
    assert "<u>0.820 ± 0.020</u>" in page
    assert "a_b%c" in page
    assert "<em>" not in page


def test_latex_escapes_and_marks() -> None:
    text = writers.latex(scores(summarised([*THREE_SEEDS, *TWO_SEEDS, ODD])))
    assert r"a\_b\%c & 1 & 0.700" in text
    assert r"\textbf{0.880 $\pm$ 0.028}" in text
    assert r"\underline{0.820 $\pm$ 0.020}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {5}


def test_what_is_below_a_table_is_written_and_its_numbers_are_columns() -> None:
    rows = summarised([trained("a_b", 0, 0), trained("a_b", 1, 5)])
    page = render(writers.markdown(scores(rows)), extensions=["tables"])
    assert "</table>\n<p>a_b: kept step 0 in 1 of 2 runs</p>" in page
    assert "\\end{tabular}\n\\par{\\footnotesize a\\_b: kept step 0 in 1 of 2 runs}" in writers.latex(scores(rows))
    for line in csv.DictReader(io.StringIO(writers.as_csv(rows))):
        assert (line["runs"], line["trained"], line["kept_step_0"]) == ("2", "2", "1")
    assert [(row["trained"], row["kept_step_0"]) for row in json.loads(writers.as_json(rows))] == [(2, 1)]


@pytest.mark.slow
def test_latex_compiles(tmp_path: Path) -> None:
    if not (tex := shutil.which("pdflatex")):
        pytest.skip("needs pdflatex")
    rows = summarised([*pair(), trained("pf", 0, 0)])
    tables = [*scores(rows), *evidence(rows), *published({"mvtec_ad"})]
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}" + writers.latex(tables) + r"\end{document}"
    )
    (tmp_path / "t.tex").write_text(document)
    subprocess.run([tex, "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_protocols_have_a_heading_of_their_own() -> None:
    results = [*THREE_SEEDS, run("coft", 0, 0.9, config=config(image_size=320))]
    for text in (writers.markdown(scores(summarised(results))), writers.latex(scores(summarised(results)))):
        plain = text.replace("\\", "")
        assert "Protocol 1 of 2, not comparable: data.image_size = 256" in plain
        assert "Protocol 2 of 2, not comparable: data.image_size = 320" in plain


def test_csv_has_every_number_to_the_last_bit() -> None:
    results = [*pair(0), *pair(1), run("pf", 0, 0.5, "mono", **NO_MASKS)]
    summary = summarised(results)
    (test,) = (row["test"] for row in summary if "test" in row)
    rows = list(csv.DictReader(io.StringIO(writers.as_csv(summary))))
    found = {(row["category"], row["method"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    for row in summary:
        for name, value in row["metrics"].items():
            line = found[row["category"], row["method"], name]
            assert (float(line["mean"]), int(line["n"])) == (value["mean"], value["n"])
            assert line["std"] == (repr(value["std"]) if "std" in value else "")
    line = found["bottle", "coft", "image_auroc"]
    assert float(line["difference"]) == test["difference"]
    assert float(line["p_holm"]) == test["p_holm"]
    assert found["bottle", "coft", "aupro"]["p_holm"] == ""
    assert found["mono", "pf", "aupro"]["undefined"] == "no masks"
    assert json.loads(line["protocol"]) == summary[0]["protocol"]


def test_json_has_the_test_beside_the_gain() -> None:
    results = [*pair(0), *pair(1)]
    rows = json.loads(writers.as_json(summarised(results)))
    (test,) = (row["test"] for row in summarised(results) if "test" in row)
    by_method = {row["method"]: row for row in rows}
    assert by_method["coft"]["test"]["low"] == test["low"]
    assert "test" not in by_method["frozen"]


def test_published_numbers_say_so_and_name_a_source_each() -> None:
    (table,) = published({"elpv", "mvtec_ad"})
    assert "not measured here" in table.title
    assert len(table.rows) == 12
    for method, _, *values, source in table.rows:
        assert "arXiv" in source.text, method
        assert all(cell.text == "—" or 50 < float(cell.text) <= 100 for cell in values)
    assert not list(published({"elpv"}))


def test_signs_that_mean_something_elsewhere_are_escaped() -> None:
    block = Table("a|b", ["m"], [[Entry("x_y*z<`", 1)]])
    assert "a\\|b" in writers.markdown([block])
    assert r"\textbf{x\_y*z$<$" in writers.latex([block])
