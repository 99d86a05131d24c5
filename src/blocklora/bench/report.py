"""From a RESULTS folder to tables and drawings."""

from __future__ import annotations

from pathlib import Path

from blocklora.bench.plots import draw_all
from blocklora.bench.published import load_published
from blocklora.bench.render import cells_csv, html, latex, markdown, tests_csv
from blocklora.bench.results import Results, collect
from blocklora.bench.store import read_plan, read_records
from blocklora.bench.tables import make_tables
from blocklora.core.errors import RunError
from blocklora.core.files import write_bytes, write_text

__all__ = ["write_tables"]

_TITLE = "Results of a bench"


def write_tables(folder: Path, out: Path, *, plots: bool = True) -> list[Path]:
    """Write tables.md, tables.tex, tables.html, cells.csv and tests.csv, and drawings as SVG, PDF and PNG.

    Args:
        folder: What ``run_grid`` made, finished or not.
        out: The folder to write to; files of the same names are replaced.
        plots: Whether to draw, which needs matplotlib.

    Returns:
        The files.

    Raises:
        RunError: There are no results, or a line is damaged, or ``out`` is a file.
        ConfigError: matplotlib is wanted and not installed.
    """
    results = collect(read_plan(folder), read_records(folder))
    tables = make_tables(results, load_published())
    drawings = draw_all(results) if plots else {}
    names = {caption: _file_name(caption) for caption in drawings}
    svgs = {caption: _inline(kinds["svg"]) for caption, kinds in drawings.items()}
    summary = _summary(results)
    texts = {
        "tables.md": markdown(_TITLE, summary, tables, {c: f"{name}.svg" for c, name in names.items()}),
        "tables.tex": latex(tables),
        "tables.html": html(_TITLE, summary, tables, svgs),
        "cells.csv": cells_csv(results),
        "tests.csv": tests_csv(results),
    }
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: this is a file; --out takes a folder.")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(out / name, text)
    files = [out / name for name in texts]
    for caption, kinds in drawings.items():
        for kind, content in kinds.items():
            files.append(out / f"{names[caption]}.{kind}")
            write_bytes(files[-1], content)
    return files


def _summary(results: Results) -> list[str]:
    """Say what there is, what is missing, and how figures were chosen."""
    missing = results.n_planned - results.n_done - results.n_failed
    state = f"{results.n_done} of {results.n_planned} runs are done"
    state += f", {results.n_failed} failed" if results.n_failed else ""
    state += f", {missing} are missing" if missing else ""
    return [
        f"{state}. Test images were looked at once a run, after training; each run's line in runs.jsonl says how its "
        "settings and its kept step were chosen, and on which images, versions and machine.",
        *results.notes,
    ]


def _file_name(caption: str) -> str:
    """Turn a caption into a file's name."""
    words = "".join(character if character.isalnum() else "-" for character in caption.lower())
    return "-".join(part for part in words.split("-") if part)


def _inline(svg: bytes) -> str:
    """Return a drawing without the header that only a file of its own has."""
    text = svg.decode("utf-8")
    return text[text.index("<svg") :]
