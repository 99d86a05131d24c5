"""Records as a bench writes them, made up: what tables and plots are tested with."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_records(
    accuracy: Callable[[str, int, str, int], float],
    *,
    models: list[str],
    data: list[str],
    shots: list[int],
    methods: list[str],
    seeds: list[int],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return a plan and a finished record for each run; ``accuracy`` of data, shots, method and seed."""
    plan, records = [], {}
    for model in models:
        for name in data:
            for n in shots:
                for seed in seeds:
                    for place, method in enumerate(methods):
                        key = f"{model}/{name}/{n}/{method}/{seed}"
                        entry = {"data": name, "model": model, "method": method, "shots": n, "seed": seed}
                        plan.append({"key": key, **entry})
                        records[key] = {
                            "key": key, **entry, "status": "ok", "accuracy": accuracy(name, n, method, seed),
                            "n_test": 1000, "trainable_parameters": 4**place - 1, "train_seconds": 0.0 + place * n,
                            "peak_memory_bytes": (600 + 50 * place) * 1024**2, "split_sha256": f"{name}{n}{seed}",
                            "created": "2026-01-01T00:00:00+00:00", "seconds": 1.0,
                            "machine": {"gpus": [], "cores": 2, "workers": 2, "threads": 1},
                        }  # fmt: skip
    return plan, records


def plausible(name: str, n: int, method: str, seed: int) -> float:
    """Return an accuracy that rises with shots and differs by method, data set and seed."""
    noise = random.Random(f"{name}{n}{method}{seed}").gauss(0, 0.01)
    base = 0.4 + 0.05 * (len(name) % 5) + 0.02 * len(method) + 0.04 * n.bit_length()
    return min(1.0, base + noise)


@pytest.fixture
def results_folder(tmp_path: Path) -> Callable[..., Path]:
    """The function that writes a RESULTS folder from a plan and records."""

    def write(plan: list[dict[str, Any]], records: dict[str, dict[str, Any]]) -> Path:
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        lines = "".join(json.dumps(record) + "\n" for record in records.values())
        (folder / "runs.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write
