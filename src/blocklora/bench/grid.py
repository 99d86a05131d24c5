"""A grid of runs, read from a TOML file: models x data sets x shots x seeds x methods.

models = ["tiny"]
shots = [1, 4, 16]
seeds = [1, 2, 3]

[data.digits]               # a bundled task; other data sets have a path, and may have root and prompt
[methods.clip-lora]
[methods.twin]              # a second set of settings of one method goes by a name of its own
method = "block-lora"
parametrization = "folded"

[settings]                  # for every method that has the setting and does not say otherwise
iterations = 200
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from blocklora.bench.user_methods import BUILT_IN, load_methods
from blocklora.core.errors import BlockloraError, ConfigError
from blocklora.estimator import FewShotClassifier
from blocklora.methods import METHODS, settings_type

__all__ = ["Grid", "Run", "load_grid"]

_KEYS = ("models", "shots", "seeds", "data", "methods", "settings", "methods_from", "root")
_DATA_KEYS = ("path", "root", "prompt", "prompts", "protocol", "class_names")
_EVERYWHERE = ("device", "precision")  # settings that are of no method alone
_TAKEN = ("model", "method", "shots", "seed", "data", "out", "resume", "progress", *_DATA_KEYS)


@dataclass(frozen=True)
class Run:
    """One run of a grid.

    Attributes:
        data: The data set's name in the grid.
        model: A hub id, a folder, or ``tiny``.
        method: The method's name in the grid.
        shots: Pictures a class.
        seed: Where all randomness comes from.
        arguments: What ``fit_run`` is called with.
        resolved: Every setting, defaults included.
    """

    data: str
    model: str
    method: str
    shots: int
    seed: int
    arguments: dict[str, Any]
    resolved: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of all settings: two runs of the same key are the same run."""
        return hashlib.sha256(json.dumps(self.resolved, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """What a person calls it."""
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        return f"{self.method} on {self.data}, {self.shots} shots, seed {self.seed}, {model}"

    def place(self) -> dict[str, Any]:
        """Return where the run stands in the grid."""
        return {name: getattr(self, name) for name in ("data", "model", "method", "shots", "seed")}


@dataclass(frozen=True)
class Grid:
    """All runs of a grid, in the order in which they are done, and the file of the user's own methods."""

    path: Path
    runs: tuple[Run, ...]
    methods_from: Path | None

    def plan(self) -> list[dict[str, Any]]:
        """Return key and place of every run, ready for JSON."""
        return [{"key": run.key, **run.place()} for run in self.runs]


def load_grid(path: str | Path) -> Grid:
    """Read a grid and check every value that can be checked without opening data or models.

    Relative paths in the file start from its own folder. A file named by ``methods_from`` is imported.

    Raises:
        ConfigError: The file cannot be read, or a key or value is not as expected; all three are named.
    """
    path = Path(path)
    content = _read(path)
    _known(path, "", content, _KEYS)
    models = _strings(path, content, "models")
    shots, seeds = _numbers(path, content, "shots", 1), _numbers(path, content, "seeds", 0)
    data, methods = _tables(path, content, "data"), _tables(path, content, "methods")
    methods_from = _methods_file(path, content.get("methods_from"))
    if methods_from:
        load_methods(methods_from)
    common = content.get("settings", {})
    _need(isinstance(common, dict), path, "settings", common, "a table, [settings]")
    root = {"root": content["root"]} if "root" in content else {}
    places = {label: _data_arguments(path, label, root | table) for label, table in data.items()}
    resolved = {
        label: _method_arguments(path, label, common, table, methods_from) for label, table in methods.items()
    }
    unused = [key for key in common if all(key not in every for _, every in resolved.values())]
    _known(path, "[settings]: ", unused, sorted({key for _, every in resolved.values() for key in every}))
    models = [_model(path, model) for model in models]
    runs = []  # whole seeds come one after the other
    for seed, model, (label, place), n_shots, (method, (given, every)) in itertools.product(
        seeds, models, places.items(), shots, resolved.items()
    ):
        which = {"model": model, "shots": n_shots, "seed": seed}
        run = Run(
            data=label, model=model, method=method, shots=n_shots, seed=seed,
            arguments=given | place | which, resolved=every | place | which,
        )  # fmt: skip
        runs.append(run)
    return Grid(path, tuple(runs), methods_from)


def _read(path: Path) -> dict[str, Any]:
    """Parse the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such file; give a grid in TOML, such as examples/grids/tiny.toml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a grid in TOML.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: this is not valid TOML: {error}.") from error


def _need(good: bool, path: Path, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError that names file, key and value, unless ``good``."""
    if not good:
        raise ConfigError(f"{path}: {key} = {value!r}: expected {expected}.")


def _known(path: Path, where: str, keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise at the first key that nobody reads."""
    known = list(known)
    for key in keys:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; expected some of {', '.join(known)}."
        if key not in known:
            raise ConfigError(f"{path}: {where}unknown key '{key}'{hint}")


def _strings(path: Path, content: dict[str, Any], key: str) -> list[str]:
    """Return a list of different words."""
    value = content.get(key)
    good = isinstance(value, list) and value and all(isinstance(item, str) and item for item in value)
    _need(
        bool(good) and len(set(value or ())) == len(value or ()),
        path,
        key,
        value,
        "a list of different names",
    )
    return list(value or ())


def _numbers(path: Path, content: dict[str, Any], key: str, least: int) -> list[int]:
    """Return a list of different whole numbers."""
    value = content.get(key)
    good = isinstance(value, list) and value and all(type(item) is int and item >= least for item in value)
    expected = f"a list of different whole numbers of {least} or more, such as [1, 2, 4]"
    _need(bool(good) and len(set(value or ())) == len(value or ()), path, key, value, expected)
    return list(value or ())


def _tables(path: Path, content: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Return named tables, at least one."""
    value = content.get(key)
    good = isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values())
    _need(bool(good), path, key, value, f"one table for each, such as [{key}.NAME]")
    return dict(value or {})


def _model(path: Path, model: str) -> str:
    """Return a folder beside the grid as its full path, and any other name as it is."""
    folder = path.parent / Path(model).expanduser()
    return folder.resolve().as_posix() if folder.is_dir() else model


def _methods_file(path: Path, value: Any) -> Path | None:
    """Return where the user's own methods are."""
    _need(
        value is None or (isinstance(value, str) and bool(value)),
        path,
        "methods_from",
        value,
        "a Python file",
    )
    return None if value is None else (path.parent / Path(value).expanduser()).resolve()


def _data_arguments(path: Path, label: str, table: dict[str, Any]) -> dict[str, Any]:
    """Return what ``fit_run`` is told about a data set."""
    _known(path, f"[data.{label}]: ", table, _DATA_KEYS)
    for key, value in table.items():
        _need(isinstance(value, str) and bool(value), path, f"data.{label}.{key}", value, "text in quotes")
    place: dict[str, Any] = {"data": label}
    for key, name in (("path", "data"), ("root", "root")):
        if key in table:
            there = path.parent / Path(table[key]).expanduser()
            place[name] = there.resolve().as_posix() if there.exists() or key == "root" else table[key]
    return place | {key: value for key, value in table.items() if key not in ("path", "root")}


def _method_arguments(
    path: Path, label: str, common: dict[str, Any], table: dict[str, Any], methods_from: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a method's settings as given, and all of them with the defaults filled in."""
    where = f"methods.{label}"
    method = table.get("method", label)
    known = isinstance(method, str) and method in METHODS
    _need(known, path, f"{where}.method", method, f"one of {', '.join(METHODS)}")
    own = {field.name for field in fields(settings_type(METHODS[method]))}
    chosen = {key: value for key, value in common.items() if key in own or key in _EVERYWHERE} | table
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in chosen.items() if key != "method"}
    file = given.get("peft_config")
    if isinstance(file, str) and not file.lstrip().startswith("{"):
        given["peft_config"] = (path.parent / Path(file).expanduser()).as_posix()
    for key in {**given, **common}:
        if key in _TAKEN:
            raise ConfigError(
                f"{path}: {where}.{key}: this is not a method's setting; expected e.g. iterations or lr."
            )
    options = _options(path, where, method, given)
    if "peft_config" in given:
        given["peft_config"] = options["peft_config"]  # its text: the file may change before a run is due
    every = {key: given.get(key, "auto") for key in _EVERYWHERE} | options | {"method": method}
    if methods_from and method not in BUILT_IN:
        every["method_sha256"] = hashlib.sha256(methods_from.read_bytes()).hexdigest()
    return {"method": method, **given}, every


def _options(path: Path, where: str, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Let the classifier check a method's settings, and return all of them."""
    try:
        return asdict(FewShotClassifier(method=method, **given).options)
    except BlockloraError as error:
        raise ConfigError(f"{path}: {where}: {error}") from error
