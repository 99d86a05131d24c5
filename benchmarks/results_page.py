"""Makes the tables of results/tiny anew and brings docs/results.md up to date with them.

    python benchmarks/results_page.py

The tables and drawings are those of `blocklora tables results/tiny`. Beside them: by how much forms of Block-LoRA and
its nearest relatives differ on the same images, in the mean over data sets and shots; intervals are t over seeds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from blocklora.bench.report import write_tables
from blocklora.bench.results import Results, collect
from blocklora.bench.statistics import summarize
from blocklora.bench.store import read_plan, read_records
from engine_page import between

ROOT = Path(__file__).parents[1]
RESULTS, PAGE, IMAGES = ROOT / "results" / "tiny", ROOT / "docs" / "results.md", ROOT / "docs" / "img"
OF, AGAINST = "block-lora", ("block-lora-folded", "block-lora-arms", "clip-lora", "dora")
DRAWINGS = ("accuracy-against-shots-tiny", "accuracy-against-cost-tiny")


def section(tables: str, heading: str) -> str:
    """One section of tables.md, without its heading."""
    return tables.split(f"## {heading}\n\n")[1].split("\n## ")[0].strip()


def differences(results: Results) -> str:
    """Accuracy of Block-LoRA's relatives minus that of its blocks, in points."""
    (model,) = results.models

    def by_seed(method: str) -> np.ndarray:
        cells = [
            results.cells[model, data, shots, method] for data in results.data for shots in results.shots
        ]
        return np.mean([cell.values() for cell in cells], axis=0)  # (seeds,)

    lines = [f"| minus {OF} | points | 95% interval |", "|---|---:|---:|"]
    for method in AGAINST:
        found = summarize(list(100 * (by_seed(method) - by_seed(OF))))
        low, high = found.interval or (found.mean, found.mean)
        lines.append(f"| {method} | {found.mean:+.2f} | {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Write tables, drawings and page."""
    out = RESULTS / "tables"
    write_tables(RESULTS, out)
    tables = (out / "tables.md").read_text(encoding="utf-8")
    results = collect(read_plan(RESULTS), read_records(RESULTS))
    page = PAGE.read_text(encoding="utf-8")
    page = between(page, "means", section(tables, "Mean accuracy (%) over data sets, tiny"))
    for shots in (results.shots[0], results.shots[-1]):
        heading = f"Accuracy (%), {shots} shot{'s' * (shots > 1)}, tiny"
        page = between(page, f"{shots} shots", section(tables, heading))
    page = between(page, "cost", section(tables, f"Cost, {results.shots[-1]} shots, tiny"))
    page = between(page, "differences", differences(results))
    for name in DRAWINGS:
        shutil.copy(out / f"{name}.svg", IMAGES / f"results-{name}.svg")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
