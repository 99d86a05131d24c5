"""Records as a bench writes them, made up: what tables and plots are tested with."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blocklora.bench.records import Machine, PlanEntry, RunFailure, RunRecord, RunResult

MACHINE = Machine("Linux", "x86_64", 2, 2**34, (), 2, 1)


def make_records(
    accuracy: Callable[[str, int, str, int], float],
    *,
    models: list[str],
    data: list[str],
    shots: list[int],
    methods: list[str],
    seeds: list[int],
) -> tuple[list[PlanEntry], dict[str, RunRecord]]:
    """Return a plan and a finished record for each run; ``accuracy`` of data, shots, method and seed."""
    plan, records = [], {}
    for model, name, n, seed in itertools.product(models, data, shots, seeds):
        for place, method in enumerate(methods):
            key = f"{model}/{name}/{n}/{method}/{seed}"
            entry = PlanEntry(key, name, model, method, n, seed)
            plan.append(entry)
            result = RunResult(
                accuracy=accuracy(name, n, method, seed), n_test=1000, trainable_parameters=4**place - 1,
                train_seconds=0.0 + place * n, peak_memory_bytes=(600 + 50 * place) * 1024**2,
                split_sha256=f"{name}{n}{seed}", created="2026-01-01T00:00:00+00:00", seconds=1.0, resumed=False,
                details={},
            )  # fmt: skip
            records[key] = RunRecord(entry, 1, result, {}, MACHINE, {})
    return plan, records


def changed(record: RunRecord, **facts: Any) -> RunRecord:
    """Return a record with other facts in its result."""
    assert isinstance(record.outcome, RunResult)
    return replace(record, outcome=replace(record.outcome, **facts))


def failed(record: RunRecord, error: str) -> RunRecord:
    """Return a record of the same run that failed."""
    return replace(record, outcome=RunFailure(error, "", "2026-01-01T00:00:00+00:00", 1.0))


def plausible(name: str, n: int, method: str, seed: int) -> float:
    """Return an accuracy that rises with shots and differs by method, data set and seed."""
    noise = random.Random(f"{name}{n}{method}{seed}").gauss(0, 0.01)
    base = 0.4 + 0.05 * (len(name) % 5) + 0.02 * len(method) + 0.04 * n.bit_length()
    return min(1.0, base + noise)


@pytest.fixture
def results_folder(tmp_path: Path) -> Callable[..., Path]:
    """The function that writes a RESULTS folder from a plan and records."""

    def write(plan: list[PlanEntry], records: dict[str, RunRecord]) -> Path:
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps([entry.to_json() for entry in plan]), encoding="utf-8")
        lines = "".join(json.dumps(record.to_json()) + "\n" for record in records.values())
        (folder / "runs.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write
