"""A grid of runs, read from a TOML file: models x data sets x shots x seeds x methods.

models = ["tiny"]
shots = [1, 4, 16]
seeds = [1, 2, 3]

[data.digits]               # a bundled task; other data sets have a path, and may have root and prompt
[methods.clip-lora]
[methods.folded]            # a second set of settings of one method goes by a name of its own
method = "block-lora"
parametrization = "folded"

[settings]                  # for every method that has the setting and does not say otherwise
iterations = 200

Paths start from the grid's folder. A run's key is a hash of its settings, and of the contents of the files that they
name: class names, a local model, the file of the user's own methods. The images of a data set are not in it; a line of
the results holds a hash of those that were used. Neither are the weights of a model on the hub.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from blocklora.bench._grid_file import (
    beside,
    known,
    names,
    need,
    numbers,
    read,
    tables,
    text,
)
from blocklora.bench._grid_parts import GridPart, data_of, method_of, models_of
from blocklora.bench.records import PlanEntry, same_runs
from blocklora.bench.user_methods import load_methods
from blocklora.core.fingerprint import fingerprint
from blocklora.methods import model_defaults

__all__ = ["Grid", "GridRun", "load_grid"]

_KEYS = ("models", "shots", "seeds", "data", "methods", "settings", "methods_from", "root")


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    Attributes:
        data: The data set's name in the grid.
        model: A hub id, a folder, or ``tiny``.
        method: The method's name in the grid.
        shots: Training images of each class.
        seed: Where all randomness comes from.
        arguments: What ``fit_run`` is called with.
        resolved: Every setting, defaults included.
        files: Files that are read when the run is due, and the hash that each must have then.
    """

    data: str
    model: str
    method: str
    shots: int
    seed: int
    arguments: Mapping[str, Any]
    resolved: Mapping[str, Any]
    files: Mapping[Path, str]

    @cached_property
    def key(self) -> str:
        """A hash of all settings: two runs of the same key are the same run."""
        return fingerprint(self.resolved)[:32]

    @property
    def name(self) -> str:
        """What a person calls it."""
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        return f"{self.method} on {self.data}, {self.shots} shots, seed {self.seed}, {model}"

    @property
    def entry(self) -> PlanEntry:
        """Its entry in the plan."""
        return PlanEntry(self.key, self.data, self.model, self.method, self.shots, self.seed)


@dataclass(frozen=True)
class Grid:
    """A grid, read and checked.

    Attributes:
        path: Its file.
        runs: All runs, in the order in which they are done. Several may be one run under several names.
        methods_from: The file of the user's own methods.
    """

    path: Path
    runs: tuple[GridRun, ...]
    methods_from: Path | None

    @property
    def plan(self) -> list[PlanEntry]:
        """An entry for every run, under each of its names."""
        return [run.entry for run in self.runs]

    @property
    def distinct_runs(self) -> list[GridRun]:
        """The runs that there are to do: each once, under the first of its names."""
        first: dict[str, GridRun] = {}
        for run in self.runs:
            first.setdefault(run.key, run)
        return list(first.values())

    @property
    def notes(self) -> list[str]:
        """Say which names stand for the same runs."""
        same = same_runs(self.plan, "data") | same_runs(self.plan, "method")
        return [
            f"{name} has equal settings to {original}: each run is done once and stands under both names."
            for name, original in same.items()
        ]


def load_grid(path: str | Path) -> Grid:
    """Read a grid and check every value that can be checked without opening data or models.

    Relative paths in the file start from its own folder. A file named by ``methods_from`` is imported.

    Raises:
        ConfigError: The file cannot be read, or a key or value is not as expected; all three are named.
    """
    path = Path(path)
    content = read(path)
    known(path, "", content, _KEYS)
    shots, seeds = (
        numbers(path, "shots", content.get("shots"), 1),
        numbers(path, "seeds", content.get("seeds"), 0),
    )
    models = models_of(path, names(path, "models", content.get("models")))
    methods_from = None
    if "methods_from" in content:
        methods_from = beside(path, text(path, "methods_from", content["methods_from"], "a Python file"))
        load_methods(methods_from)
    root = beside(path, text(path, "root", content["root"])).as_posix() if "root" in content else None
    data = {
        label: data_of(path, label, table, root)
        for label, table in tables(path, "data", content.get("data")).items()
    }
    common = content.get("settings", {})
    need(isinstance(common, dict), path, "settings", common, "a table, [settings]")
    methods = {
        label: method_of(path, label, common, table, methods_from)
        for label, table in tables(path, "methods", content.get("methods")).items()
    }
    settings = {key for method in methods.values() for key in method.resolved} - {"method", "method_sha256"}
    known(path, "[settings]: ", common, sorted(settings))
    runs = (  # whole seeds come one after the other
        _run(models[model], data[name], methods[method], (name, model, method, n_shots, seed))
        for seed, model, name, n_shots, method in itertools.product(seeds, models, data, shots, methods)
    )
    return Grid(path, tuple(runs), methods_from)


def _run(model: GridPart, data: GridPart, method: GridPart, place: tuple[str, str, str, int, int]) -> GridRun:
    """Put a run together; ``place`` is data, model, method, shots and seed."""
    numbers = {"shots": place[3], "seed": place[4]}
    arguments = {**method.arguments, **data.arguments, **model.arguments, **numbers}
    defaults = model_defaults(arguments["method"], place[1])
    own = {name: value for name, value in defaults.items() if name not in arguments}
    return GridRun(
        *place,
        arguments=arguments,
        resolved={**method.resolved, **own, **data.resolved, **model.resolved, **numbers},
        files={**method.files, **data.files},
    )
