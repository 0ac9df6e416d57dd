"""Tables as people want them: terminal, Markdown, LaTeX; and the numbers at full precision: CSV, JSON."""

import json
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from anomaly_zoo.compare.significance import Compared
from anomaly_zoo.compare.tables import Entry, Table

_STYLES = {None: "", 1: "bold", 2: "underline"}
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\|*_<`"})
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
_CSV = [
    *("dataset", "category", "defect", "num_categories", "shots", "method", "runs", "failed", "trained", "kept_step_0"),
    *("metric", "mean", "std", "n", "gain_mean", "gain_std", "gain_n"),
    *("difference", "low", "high", "p_delong", "p_holm", "images", "undefined", "protocol"),
]


def terminal(tables: Iterable[Table], legend: Iterable[Entry]) -> None:
    """Prints every table, as wide as the terminal is, and the lines of the legend below."""
    console = Console(highlight=False)
    for table in tables:
        if table.note:
            console.print(Text(f"{table.note}\n", "bold red"))
        console.print(Text(table.title, "bold"))
        drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0) if console.width >= 100 else 0)
        for name, heading in zip(table.columns, _headings(table.columns), strict=True):
            left = name in (table.columns[0], "source")
            drawn.add_column(Text(heading), justify="left" if left else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(entry.text, "dim" if entry.faint else _STYLES[entry.place]) for entry in row))
        console.print(drawn, *(Text(line, "dim") for line in table.below), "", sep="\n")
    for entry in legend:
        console.print(Text(entry.text, "dim" if entry.faint else "bold red" if entry.place else ""))


def _headings(names: Sequence[str]) -> list[str]:
    """Long names in two lines; then short ones stand in the lower."""
    parts = [name.rpartition("_") if len(name) > 11 else ("", "", name) for name in names]
    tall = any(head for head, *_ in parts)
    return [f"{head}_\n{tail}" if head else f"\n{tail}" if tall else tail for head, _, tail in parts]


def markdown(tables: Iterable[Table]) -> str:
    """GitHub's Markdown: the best in bold, the second best underlined."""
    marks = {None: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    parts = []
    for table in tables:
        rule = [":--", *["--:"] * (len(table.columns) - 1)]
        rows = [[name.translate(_MARKDOWN) for name in table.columns], rule, *_marked(table, marks, _MARKDOWN)]
        text = [f"### {table.title.translate(_MARKDOWN)}", "", *(f"| {' | '.join(row)} |" for row in rows)]
        below = [line for text in table.below for line in ("", text.translate(_MARKDOWN))]
        parts += [f"## {table.note.translate(_MARKDOWN)}"] if table.note else []
        parts.append("\n".join([*text, *below]))
    return "\n\n".join(parts) + "\n"


def latex(tables: Iterable[Table]) -> str:
    r"""Tables for a paper; needs `\usepackage{booktabs}`. The best in bold, the second best underlined."""
    marks = {None: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    parts = [r"% needs \usepackage{booktabs}" + "\n"]
    for table in tables:
        columns = [name.translate(_LATEX) for name in table.columns]
        rows = pd.DataFrame(_marked(table, marks, _LATEX), columns=columns)
        style, form = rows.style.hide(axis="index"), f"l{'r' * (len(table.columns) - 1)}"
        caption = ((f"{table.note}. " if table.note else "") + table.title).translate(_LATEX)
        drawn = style.to_latex(column_format=form, position_float="centering", hrules=True, caption=caption)
        below = "".join(rf"\par{{\footnotesize {text.translate(_LATEX)}}}" + "\n" for text in table.below)
        parts.append(drawn.replace(r"\end{table}", below + r"\end{table}"))
    return "\n".join(parts)


def as_json(rows: Sequence[Any], metrics: Sequence[str] = ()) -> str:
    """The rows at full precision."""
    shown = []
    for row in rows:
        parts = {part: {name: row[part][name] for name in metrics if name in row[part]} for part in ("metrics", "gain")}
        shown.append({**row, **parts} if metrics else row)
    return json.dumps(shown, indent=2) + "\n"


def as_csv(rows: Sequence[Compared], metrics: Sequence[str] = ()) -> str:
    """One line per method, group and metric, at full precision; the columns of the test are filled for image_auroc."""
    names = metrics or sorted({name for row in rows for name in (*row["metrics"], *row["undefined"])})
    shown = []
    for row, name in product(rows, names):
        line: dict[str, Any] = {**row, "runs": row["n"], "metric": name, "undefined": row["undefined"].get(name, "")}
        line |= row.get("test", {}) if name == "image_auroc" else {}
        line |= {"n": None, "protocol": json.dumps(row["protocol"]), **row["metrics"].get(name, {})}
        shown.append(line | {f"gain_{key}": value for key, value in row["gain"].get(name, {}).items()})
    return plain_csv(shown, _CSV)


def plain_csv(rows: Sequence[dict[str, Any]], columns: list[str] | None = None) -> str:
    """One line per row, at full precision."""
    return str(pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n"))


def _marked(table: Table, marks: dict[int | None, str], signs: dict[int, str]) -> list[list[str]]:
    return [[marks[entry.place].format(entry.text.strip().translate(signs)) for entry in row] for row in table.rows]
