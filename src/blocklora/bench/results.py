"""Records become cells: the seeds of one method on one data set, and what is missing there.

A cell is whole when every planned seed is there. Only whole cells are averaged, ranked and tested, so that no two
figures beside each other stand for different seeds or data sets. Where two names of the grid stand for the same runs,
both have their row or column, and means over data sets, ranks and tests count them once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blocklora.bench.records import Machine, PlanEntry, RunFailure, RunRecord, RunResult, same_runs
from blocklora.bench.statistics import SeedSummary, summarize

__all__ = ["Cell", "CellKey", "Results", "collect"]

CellKey = tuple[str, str, int, str]  # model, data, shots, method


@dataclass
class Cell:
    """The runs of one model, data set, number of shots and method.

    Attributes:
        planned: Seeds.
        runs: The result of each seed that is done.
        failed: The error of each seed that failed.
        machines: Where the runs were done.
    """

    planned: list[int] = field(default_factory=list)
    runs: dict[int, RunResult] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    machines: set[Machine] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Whether every planned seed is done."""
        return bool(self.planned) and set(self.planned) == set(self.runs)

    def values(self, name: str = "accuracy") -> list[float]:
        """Return a figure of every seed that is done, in the order planned; ``name`` is a field of ``RunResult``."""
        return [float(getattr(self.runs[seed], name)) for seed in self.planned if seed in self.runs]

    def summary(self) -> SeedSummary:
        """Summarize the accuracies of the seeds that are done; there must be one."""
        return summarize(self.values())

    def add(self, seed: int, record: RunRecord | None) -> None:
        """Plan a seed, and add what became of it."""
        self.planned.append(seed)
        if record is None:
            return
        if isinstance(record.outcome, RunFailure):
            self.failed[seed] = record.outcome.error
        else:
            self.runs[seed] = record.outcome
            self.machines.add(record.machine)


@dataclass
class Results:
    """All cells of a plan.

    Attributes:
        models: In the order of the plan, as ``data``, ``methods`` and ``seeds`` are; ``shots`` rise.
        cells: By model, data, shots and method.
        same_data: Names of data sets that stand for the same runs as an earlier name, and that name.
        same_methods: The same for methods.
        n_planned: Runs; a run of several names is one.
        n_done: Runs that are done.
        n_failed: Runs that failed.
        notes: What a reader must know of the records as a whole.
    """

    models: list[str]
    data: list[str]
    shots: list[int]
    methods: list[str]
    seeds: list[int]
    cells: dict[CellKey, Cell]
    same_data: dict[str, str]
    same_methods: dict[str, str]
    n_planned: int
    n_done: int
    n_failed: int
    notes: list[str]

    @property
    def compared_data(self) -> list[str]:
        """The data sets that count in means, ranks and tests: each once."""
        return [name for name in self.data if name not in self.same_data]

    @property
    def shot_groups(self) -> list[list[int]]:
        """Each number of shots, and all of them together where there are several: what methods are compared at."""
        return [[n] for n in self.shots] + ([self.shots] if len(self.shots) > 1 else [])

    def row(self, model: str, shots: int, method: str) -> list[Cell]:
        """Return a method's cells on all data sets, in the order of ``data``."""
        return [self.cells[model, data, shots, method] for data in self.data]

    def whole_methods(self, model: str, shots: Sequence[int]) -> list[str]:
        """Return the methods that are whole on every data set at all of these shots."""
        return [
            method
            for method in self.methods
            if all(cell.whole for n in shots for cell in self.row(model, n, method))
        ]

    def compared_methods(self, model: str, shots: Sequence[int]) -> list[str]:
        """Return the methods that ranks and tests compare: the whole ones, each once."""
        return [name for name in self.whole_methods(model, shots) if name not in self.same_methods]


def collect(plan: Sequence[PlanEntry], records: Mapping[str, RunRecord]) -> Results:
    """Sort records into the cells of a plan.

    Records that the plan does not name are left out. So are runs on other images than the newest run of the same
    data set, shots and seed: the data changed between them, and they count as missing.
    """
    outdated = _outdated(plan, records)
    counted = {
        entry.key: records[entry.key] for entry in plan if entry.key in records and entry.key not in outdated
    }
    cells: dict[CellKey, Cell] = defaultdict(Cell)
    for entry in plan:
        cells[entry.model, entry.data, entry.shots, entry.method].add(entry.seed, counted.get(entry.key))
    keys = {entry.key for entry in plan}
    same_data, same_methods = same_runs(plan, "data"), same_runs(plan, "method")
    n_done = sum(record.status == "ok" for record in counted.values())
    return Results(
        models=list(dict.fromkeys(entry.model for entry in plan)),
        data=list(dict.fromkeys(entry.data for entry in plan)),
        shots=sorted({entry.shots for entry in plan}),
        methods=list(dict.fromkeys(entry.method for entry in plan)),
        seeds=list(dict.fromkeys(entry.seed for entry in plan)),
        cells=dict(cells),
        same_data=same_data,
        same_methods=same_methods,
        n_planned=len(keys),
        n_done=n_done,
        n_failed=len(counted) - n_done,
        notes=_notes(same_data | same_methods, len(records.keys() - keys), len(outdated)),
    )


def _notes(same: Mapping[str, str], n_others: int, n_outdated: int) -> list[str]:
    """Say which names stand for the same runs, and what was left out."""
    notes = [
        f"{name} has equal settings to {original}: the same runs under two names, counted once in means over data "
        "sets, ranks and tests."
        for name, original in same.items()
    ]
    if n_others:
        notes.append(
            f"{n_others} recorded runs belong to earlier grids, not to the last one, and are left out."
        )
    if n_outdated:
        notes.append(
            f"{n_outdated} runs were made on other images than later runs of the same data set, shots and seed; "
            "they count as missing. Delete their lines from runs.jsonl and run the bench again."
        )
    return notes


def _outdated(plan: Sequence[PlanEntry], records: Mapping[str, RunRecord]) -> set[str]:
    """Return the keys of runs on images that have changed since."""
    groups: dict[tuple[str, int, int], dict[str, RunResult]] = defaultdict(dict)
    for entry in plan:
        outcome = records[entry.key].outcome if entry.key in records else None
        if isinstance(outcome, RunResult):
            groups[entry.data, entry.shots, entry.seed][entry.key] = outcome
    return {
        key
        for group in groups.values()
        for key, found in group.items()
        if found.split_sha256 != max(group.values(), key=lambda other: other.created).split_sha256
    }
