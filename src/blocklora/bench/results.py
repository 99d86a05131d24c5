"""Records become cells: the seeds of one method on one data set, and what is missing there.

A cell is whole when every planned seed is there. Only whole cells are averaged, ranked and tested, so that no two
figures beside each other stand for different seeds or data sets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blocklora.bench.statistics import Summary, summarize

__all__ = ["Cell", "Place", "Results", "collect"]

Place = tuple[str, str, int, str]  # model, data, shots, method


@dataclass
class Cell:
    """The runs of one model, data set, number of shots and method.

    Attributes:
        planned: Seeds.
        runs: The record of each seed that is done.
        failed: The error of each seed that failed.
    """

    planned: list[int] = field(default_factory=list)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every planned seed is done."""
        return bool(self.planned) and set(self.planned) == set(self.runs)

    def values(self, name: str = "accuracy") -> list[float]:
        """Return a figure of every seed that is done, in the order planned."""
        return [float(self.runs[seed][name]) for seed in self.planned if seed in self.runs]

    def summary(self) -> Summary:
        """Summarize the accuracies of the seeds that are done; there must be one."""
        return summarize(self.values())


@dataclass
class Results:
    """All cells of a plan.

    Attributes:
        models: In the order of the plan, as ``data``, ``shots``, ``methods`` and ``seeds`` are.
        cells: By model, data, shots and method.
        notes: What a reader must know of the records as a whole.
    """

    models: list[str]
    data: list[str]
    shots: list[int]
    methods: list[str]
    seeds: list[int]
    cells: dict[Place, Cell]
    notes: list[str]

    def row(self, model: str, shots: int, method: str) -> list[Cell]:
        """Return a method's cells on all data sets."""
        return [self.cells[model, data, shots, method] for data in self.data]

    def whole_methods(self, model: str, shots: Sequence[int]) -> list[str]:
        """Return the methods that are whole on every data set at all of these shots."""
        return [
            method
            for method in self.methods
            if all(cell.whole for n in shots for cell in self.row(model, n, method))
        ]

    def counts(self) -> tuple[int, int, int]:
        """Return how many runs are planned, done and failed."""
        cells = self.cells.values()
        return (
            sum(len(cell.planned) for cell in cells),
            sum(len(cell.runs) for cell in cells),
            sum(len(cell.failed) for cell in cells),
        )


def collect(plan: Sequence[Mapping[str, Any]], records: Mapping[str, dict[str, Any]]) -> Results:
    """Sort records into the cells of a plan.

    Records that the plan does not name are left out. So are runs on other pictures than the newest run of the same
    data set, shots and seed: the data changed between them, and they count as missing.
    """
    cells: dict[Place, Cell] = defaultdict(Cell)
    outdated = _outdated(plan, records)
    for entry in plan:
        cell = cells[entry["model"], entry["data"], entry["shots"], entry["method"]]
        cell.planned.append(entry["seed"])
        record = records.get(entry["key"])
        if record is None or entry["key"] in outdated:
            continue
        if record["status"] == "ok":
            cell.runs[entry["seed"]] = record
        else:
            cell.failed[entry["seed"]] = record["error"]
    others = len(records.keys() - {entry["key"] for entry in plan})
    notes = []
    if others:
        notes.append(
            f"{others} recorded runs belong to earlier grids, not to the last one, and are left out."
        )
    if outdated:
        notes.append(
            f"{len(outdated)} runs were made on other pictures than later runs of the same data set, shots and seed; "
            "they count as missing. Delete their lines from runs.jsonl and run the bench again."
        )
    names = ("model", "data", "shots", "method", "seed")
    models, data, shots, methods, seeds = (
        list(dict.fromkeys(entry[name] for entry in plan)) for name in names
    )
    return Results(models, data, sorted(shots), methods, seeds, dict(cells), notes)


def _outdated(plan: Sequence[Mapping[str, Any]], records: Mapping[str, dict[str, Any]]) -> set[str]:
    """Return the keys of runs on pictures that have changed since."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for entry in plan:
        record = records.get(entry["key"])
        if record and record["status"] == "ok":
            groups[entry["data"], entry["shots"], entry["seed"]].append(record)
    return {
        record["key"]
        for group in groups.values()
        for record in group
        if record["split_sha256"] != max(group, key=lambda other: other["created"])["split_sha256"]
    }
