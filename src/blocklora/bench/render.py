"""The same tables as Markdown, LaTeX and HTML, and all figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from blocklora.bench.compare import compare_pairs
from blocklora.bench.results import Results
from blocklora.bench.tables import Table, TableCell

__all__ = ["cells_csv", "html", "latex", "markdown", "tests_csv"]

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$",
}  # fmt: skip
_CELL_COLUMNS = (
    "model", "data", "shots", "method", "seeds_planned", "seeds_done", "seeds_failed", "mean", "sd", "interval_low",
    "interval_high", "accuracies",
)  # fmt: skip
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px; margin: 2rem auto;
  padding: 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #444; }
.note { color: #555; font-size: .875rem; margin: .3rem 0; max-width: 75ch; }
svg { max-width: 100%; height: auto; }
</style>
<h1>{{ title }}</h1>
{% for line in summary %}<p>{{ line }}</p>
{% endfor %}
{% for name, drawing in figures.items() %}<h2>{{ name }}</h2>
{{ drawing }}
{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2>
<div class="wide"><table>
<thead><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row -%}
<td>{% if cell.bold %}<b>{{ cell.text }}</b>{% else %}{{ cell.text }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% for note in table.notes %}<p class="note">{{ note }}</p>
{% endfor %}{% endfor %}
</html>
"""


def markdown(title: str, summary: Sequence[str], tables: Iterable[Table], figures: Mapping[str, str]) -> str:
    """Write a page with drawings; ``figures`` are file names by caption."""
    lines = [f"# {title}", "", *_spaced(map(_md, summary))]
    for caption, name in figures.items():
        lines += [f"![{caption}]({name})", ""]
    for table in tables:
        lines += [f"## {table.title}", "", "| " + " | ".join(map(_md, table.columns)) + " |"]
        lines.append("|---|" + "---:|" * (len(table.columns) - 1))
        lines += ["| " + " | ".join(map(_md_cell, row)) + " |" for row in table.rows]
        lines += ["", *_spaced(map(_md, table.notes))]
    return "\n".join(lines).rstrip() + "\n"


def latex(tables: Iterable[Table]) -> str:
    r"""Write one ``table`` environment each, for ``\usepackage{booktabs}``."""
    parts = [r"% needs \usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(map(_tex_cell, row)) + r" \\" for row in table.rows]
        parts += [
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(' '.join([table.title + '.', *table.notes]))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(_tex, table.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def html(title: str, summary: Sequence[str], tables: Iterable[Table], figures: Mapping[str, str]) -> str:
    """Write one self-contained page; ``figures`` are drawings in SVG by caption."""
    drawings = {caption: Markup(svg) for caption, svg in figures.items()}
    page = Environment(autoescape=True).from_string(_PAGE)
    return page.render(title=title, summary=summary, tables=list(tables), figures=drawings)


def cells_csv(results: Results) -> str:
    """Write one row for every cell: seeds planned, done and failed, mean, deviation and interval, as fractions."""
    rows: list[list[Any]] = [list(_CELL_COLUMNS)]
    for (model, data, shots, method), cell in results.cells.items():
        row: list[Any] = [model, data, shots, method, len(cell.planned), len(cell.runs), len(cell.failed)]
        if cell.runs:
            found = cell.summary()
            values = " ".join(f"{seed}:{run.accuracy:.6f}" for seed, run in cell.runs.items())
            row += [found.mean, found.sd, *(found.interval or (None, None)), values]
        rows.append(row + [None] * (len(rows[0]) - len(row)))
    return _csv(rows)


def tests_csv(results: Results) -> str:
    """Write one row for every pair of methods, at each number of shots and for the mean over shots."""
    columns = ["model", "shots", "first", "second", "difference_points", "won", "lost", "p", "p_holm"]
    rows: list[list[Any]] = [columns]
    for model in results.models:
        for shots in results.shot_groups:
            name = str(shots[0]) if len(shots) == 1 else "mean"
            rows += [[model, name, *astuple(pair)] for pair in compare_pairs(results, model, shots)]
    return _csv(rows)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _spaced(lines: Iterable[str]) -> list[str]:
    """Return paragraphs with an empty line behind each."""
    return [part for line in lines for part in (line, "")]


def _md(text: str) -> str:
    for character in "\\|*_<":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _md_cell(cell: TableCell) -> str:
    return f"**{_md(cell.text)}**" if cell.bold else _md(cell.text)


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def _tex_cell(cell: TableCell) -> str:
    return rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text)
