"""What each model, data set and method of a grid adds to its runs: arguments, resolved settings and hashes of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from blocklora.bench._grid_file import beside, file_sha256, folder_sha256, known, need, text
from blocklora.bench.user_methods import BUILT_IN
from blocklora.clip.load import TINY
from blocklora.core.errors import BlockloraError, ConfigError, DataError
from blocklora.data import bundled_names, known_benchmark
from blocklora.data.literature.benchmarks import find_benchmark
from blocklora.methods import METHODS, fit_config

__all__ = ["GridPart", "data_of", "method_of", "models_of"]

_DATA_KEYS = ("path", "root", "prompt", "prompts", "protocol", "class_names")
_LATER = (
    "cached_views",
)  # settings that came later: while unset they are in no key, so that older runs keep theirs
_EVERYWHERE = ("device", "precision")  # settings that are of no method alone
_TAKEN = (
    "model", "shots", "seed", "data", "out", "resume", "progress", "store", "resources", "revision", "deterministic",
    "time_limit", "index", "classes", "ensemble", *_DATA_KEYS,
)  # fmt: skip


@dataclass(frozen=True)
class GridPart:
    """What one model, data set or method adds to a run.

    Attributes:
        arguments: What ``fit_run`` is called with.
        resolved: Every setting, defaults included, and hashes of files.
        files: Files that are read when the run is due, and the hash of each that is in ``resolved``.
    """

    arguments: Mapping[str, Any]
    resolved: Mapping[str, Any]
    files: Mapping[Path, str]


def models_of(path: Path, given: Sequence[str]) -> dict[str, GridPart]:
    """Return the models by their names in the results: a folder's is its full path."""
    models: dict[str, GridPart] = {}
    spelled: dict[str, str] = {}
    for name in given:
        folder = beside(path, name)
        local = name != TINY and folder.is_dir()
        if not local:
            _not_elsewhere(path, "models", name)
        model = folder.as_posix() if local else name
        if model in models:
            raise ConfigError(
                f"{path}: models: '{spelled[model]}' and '{name}' are the same folder; name it once."
            )
        facts = {"model": model}
        sha256 = {"model_sha256": folder_sha256(path, "models", folder)} if local else {}
        models[model], spelled[model] = GridPart(facts, facts | sha256, {}), name
    return models


def _not_elsewhere(path: Path, key: str, name: str) -> None:
    """Refuse a name that would be read from the folder in which the command was given."""
    if name != TINY and os.path.exists(os.path.expanduser(name)):
        raise ConfigError(
            f"{path}: {key}: '{name}' is in the folder where you are, not beside the grid; write its full path, or "
            "its path as seen from the grid's folder."
        )


def data_of(path: Path, label: str, table: Mapping[str, Any], root: str | None) -> GridPart:
    """Return what ``fit_run`` is told about a data set; ``root`` is for those that are known by name."""
    where = f"data.{label}"
    known(path, f"[{where}]: ", table, _DATA_KEYS)
    for key, value in table.items():
        text(path, f"{where}.{key}", value)
    arguments = _source(path, label, table, root)
    arguments |= {key: value for key, value in table.items() if key not in ("path", "root")}
    if "class_names" not in table:
        return GridPart(arguments, arguments, {})
    file = beside(path, table["class_names"])
    arguments["class_names"] = file.as_posix()
    sha256 = file_sha256(path, f"{where}.class_names", file)
    return GridPart(arguments, arguments | {"class_names_sha256": sha256}, {file: sha256})


def _source(path: Path, label: str, table: Mapping[str, Any], root: str | None) -> dict[str, str]:
    """Return where a data set is: a path, or a name, which for a data set of the literature has a root."""
    name = table.get("path", label)
    there = beside(path, name)
    bundled_or_hub = name in bundled_names() or name.startswith("hf:")
    is_path = "path" in table and (there.exists() or not (bundled_or_hub or find_benchmark(name)))
    if "root" in table:
        root = beside(path, table["root"]).as_posix()
    elif is_path:
        return {"data": there.as_posix()}
    elif root is None or bundled_or_hub:
        _not_elsewhere(path, f"data.{label}", name)
        return {"data": name}
    try:
        return {"data": known_benchmark(name).name, "root": str(root)}  # other spellings are the same data
    except DataError as error:
        raise ConfigError(f"{path}: data.{label}: {error}") from error


def method_of(
    path: Path, label: str, common: Mapping[str, Any], table: Mapping[str, Any], methods_from: Path | None
) -> GridPart:
    """Return a method's settings as given, and all of them with the defaults filled in."""
    where = f"methods.{label}"
    method = table.get("method", label)
    good = isinstance(method, str) and method in METHODS
    need(good, path, f"{where}.method", method, f"one of {', '.join(METHODS)}")
    given = _given(path, where, method, common, table)
    options = _options(path, where, method, given)
    if "peft_config" in given:
        given = {
            **given,
            "peft_config": options["peft_config"],
        }  # its text: the file may change before a run is due
    every = {**{key: given.get(key, "auto") for key in _EVERYWHERE}, **options, "method": method}
    files = {}
    if methods_from and method not in BUILT_IN:
        every["method_sha256"] = files[methods_from] = file_sha256(path, "methods_from", methods_from)
    return GridPart({"method": method, **given}, every, files)


def _given(
    path: Path, where: str, method: str, common: Mapping[str, Any], table: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the settings that the grid has for a method, its own and the common ones, with full paths."""
    for key in {**common, **table}:
        if key in _TAKEN:
            raise ConfigError(
                f"{path}: {where}.{key}: this is not a method's setting; expected e.g. iterations or lr."
            )
    own = {field.name for field in fields(METHODS[method].settings)} | set(_EVERYWHERE)
    chosen = {**{key: value for key, value in common.items() if key in own}, **table}
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in chosen.items() if key != "method"}
    file = given.get("peft_config")
    if isinstance(file, str) and not file.lstrip().startswith("{"):
        given["peft_config"] = beside(path, file).as_posix()
    return given


def _options(path: Path, where: str, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check a method's settings, and return all of them."""
    try:
        found = asdict(fit_config(method=method, **given).settings)
    except BlockloraError as error:
        raise ConfigError(f"{path}: {where}: {error}") from error
    return {name: value for name, value in found.items() if value is not None or name not in _LATER}
