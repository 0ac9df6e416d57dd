"""Tables as people want them: terminal, Markdown, LaTeX; and the numbers at full precision: CSV, JSON."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anomaly_zoo.significance import Comparison
from anomaly_zoo.summary import Summary
from anomaly_zoo.tables import Block, Mark

_STYLES = {1: "bold", 2: "underline"}
_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "—": "---",
        "·": r"$\cdot$",
        "<": r"$<$",
        ">": r"$>$",
    }
)
_CELL = ("dataset", "category", "defect", "num_categories", "shots", "method")
_STATISTIC = ("mean", "std", "n")
_NUMBERS = ("mean", "std", "n", "gain_mean", "gain_std", "gain_n")
_TESTS = ("difference", "low", "high", "p_delong", "p_holm", "images")


def terminal(console: Console, blocks: Iterable[Block]) -> None:
    """Prints every table, as wide as the terminal is."""
    for block in blocks:
        if block.note:
            console.print(Text(f"{block.note}\n", "bold red"))
        console.print(Text(block.title, "bold"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.padding = (0, 1, 0, 0) if console.width >= 100 else 0
        for name, heading in zip(block.columns, _headings(block.columns), strict=True):
            left = name in (block.columns[0], "source")
            table.add_column(Text(heading), justify="left" if left else "right", overflow="fold")
        for row in block.rows:
            cells = [Text(mark.text, "dim" if mark.aside else _STYLES.get(mark.place or 0, "")) for mark in row]
            table.add_row(*cells)
        below = [Text(line, "dim") for line in block.below]
        console.print(table, *below, "", sep="\n")


def _headings(names: Sequence[str]) -> list[str]:
    """Long names in two lines; then short ones stand in the lower."""
    parts = [name.rpartition("_") if len(name) > 11 else ("", "", name) for name in names]
    tall = any(head for head, *_ in parts)
    return [f"{head}_\n{tail}" if head else f"\n{tail}" if tall else tail for head, _, tail in parts]


def lines(console: Console, marks: Iterable[Mark]) -> None:
    """Prints lines below the tables."""
    for mark in marks:
        console.print(Text(mark.text, "dim" if mark.aside else "bold red" if mark.place else ""))


def markdown(blocks: Iterable[Block]) -> str:
    """GitHub's Markdown: the best in bold, the second best underlined."""
    parts = []
    for block in blocks:
        if block.note:
            parts.append(f"## {_escape(block.note)}")
        rows = [
            " | ".join(_emphasised(mark, ("**", "**"), ("<u>", "</u>"), _escape) for mark in row) for row in block.rows
        ]
        rule = " | ".join([":--", *["--:"] * (len(block.columns) - 1)])
        table = [" | ".join(map(_escape, block.columns)), rule, *rows]
        below = [line for text in block.below for line in ("", _escape(text))]
        parts.append("\n".join([f"### {_escape(block.title)}", "", *(f"| {line} |" for line in table), *below]))
    return "\n\n".join(parts) + "\n"


def latex(blocks: Iterable[Block]) -> str:
    r"""Tables for a paper; needs `\usepackage{booktabs}`. The best in bold, the second best underlined."""
    parts = [r"% needs \usepackage{booktabs}"]
    for block in blocks:
        caption = (f"{block.note}. " if block.note else "") + block.title
        rows = [
            " & ".join(_emphasised(mark, (r"\textbf{", "}"), (r"\underline{", "}"), _tex) for mark in row)
            for row in block.rows
        ]
        head = " & ".join(map(_tex, block.columns))
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_tex(caption)}}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(block.columns) - 1)}}}",
                    r"\toprule",
                    rf"{head} \\",
                    r"\midrule",
                    *(rf"{row} \\" for row in rows),
                    r"\bottomrule",
                    r"\end{tabular}",
                    *(rf"\par{{\footnotesize {_tex(text)}}}" for text in block.below),
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def as_json(rows: Sequence[Summary], comparisons: Sequence[Comparison], metrics: Sequence[str] = ()) -> str:
    """The rows at full precision; `test` holds what `Comparison` says of the image AUROC, where there is one."""
    tests = {_name(test): test for test in comparisons}
    shown: list[Any] = []
    for row in rows:
        parts: Any = {**row}
        for part in ("metrics", "gain"):
            parts[part] = {name: parts[part][name] for name in metrics or parts[part] if name in parts[part]}
        if found := tests.get(_name(row)):
            parts["test"] = {name: found[name] for name in (*_TESTS, "n")}  # type: ignore[literal-required]
        shown.append(parts)
    return json.dumps(shown, indent=2) + "\n"


def as_csv(rows: Sequence[Summary], comparisons: Sequence[Comparison], metrics: Sequence[str] = ()) -> str:
    """One line per method, cell and metric, at full precision; the columns of the test are filled for image_auroc."""
    tests = {_name(test): test for test in comparisons}
    names = metrics or sorted({name for row in rows for name in (*row["metrics"], *row["undefined"])})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [*_CELL, "runs", "failed", "trained", "kept_step_0", "metric", *_NUMBERS, *_TESTS, "undefined", "protocol"]
    )
    for row, name in product(rows, names):
        cell = [row[key] for key in _CELL]
        statistics = [
            *(part.get(name, {}).get(key, "") for part in (row["metrics"], row["gain"]) for key in _STATISTIC)
        ]
        test: Any = tests.get(_name(row), {}) if name == "image_auroc" else {}
        protocol = json.dumps(row["protocol"], sort_keys=True)
        tested = [test.get(key, "") for key in _TESTS]
        runs = [row["n"], row["failed"], row["trained"], row["kept_step_0"]]
        writer.writerow([*cell, *runs, name, *statistics, *tested, row["undefined"].get(name, ""), protocol])
    return file.getvalue()


def _name(row: Summary | Comparison) -> tuple[Any, ...]:
    keys = ("dataset", "category", "defect", "shots", "method")
    return (json.dumps(row["protocol"], sort_keys=True), *(row[key] for key in keys))  # type: ignore[literal-required]


def _emphasised(mark: Mark, best: tuple[str, str], second: tuple[str, str], escape: Any) -> str:
    before, after = {1: best, 2: second}.get(mark.place or 0, ("", ""))
    return f"{before}{escape(mark.text.strip())}{after}"


def _escape(text: str) -> str:
    for sign in "\\|*_<`":
        text = text.replace(sign, f"\\{sign}")
    return text


def _tex(text: str) -> str:
    return text.translate(_LATEX)
