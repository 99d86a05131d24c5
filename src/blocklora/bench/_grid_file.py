"""Reading a grid's TOML file, and errors that name file, key and value."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from blocklora.core.errors import ConfigError
from blocklora.core.words import did_you_mean

__all__ = [
    "beside",
    "file_sha256",
    "folder_sha256",
    "known",
    "names",
    "need",
    "numbers",
    "read",
    "tables",
    "text",
]

_MODEL_FILES = (
    ".json",
    ".safetensors",
    ".txt",
    ".model",
)  # weights, configuration and tokenizer; no pickle is read


def read(path: Path) -> Mapping[str, Any]:
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


def need(good: bool, path: Path, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError that names file, key and value, unless ``good``."""
    if not good:
        raise ConfigError(f"{path}: {key} = {value!r}: expected {expected}.")


def known(path: Path, where: str, keys: Iterable[str], expected: Iterable[str]) -> None:
    """Raise at the first key that nobody reads."""
    expected = list(expected)
    for key in keys:
        if key not in expected:
            hint = did_you_mean(key, expected) or f"; expected some of {', '.join(expected)}."
            raise ConfigError(f"{path}: {where}unknown key '{key}'{hint}")


def text(path: Path, key: str, value: Any, expected: str = "text in quotes") -> str:
    """Return a value that must be text, and not empty."""
    need(isinstance(value, str) and bool(value.strip()), path, key, value, expected)
    return str(value)


def names(path: Path, key: str, value: Any) -> list[str]:
    """Return a list of different words."""
    return _different(
        path, key, value, lambda item: isinstance(item, str) and bool(item), "a list of different names"
    )


def numbers(path: Path, key: str, value: Any, least: int) -> list[int]:
    """Return a list of different whole numbers."""
    expected = f"a list of different whole numbers of {least} or more, such as [1, 2, 4]"
    return _different(path, key, value, lambda item: type(item) is int and item >= least, expected)


def _different(path: Path, key: str, value: Any, good: Callable[[Any], bool], expected: str) -> list[Any]:
    """Return a list, not empty, of items that are good and differ."""
    fine = isinstance(value, list) and value and all(map(good, value)) and len(set(value)) == len(value)
    need(bool(fine), path, key, value, expected)
    return list(value)


def tables(path: Path, key: str, value: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return named tables, at least one."""
    good = isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values())
    need(bool(good), path, key, value, f"one table for each, such as [{key}.NAME]")
    return dict(value)


def beside(path: Path, name: str) -> Path:
    """Return a path of the grid as a full one: it starts from the grid's folder; ``~`` is the home folder."""
    return (path.parent / os.path.expanduser(name)).resolve()


def file_sha256(path: Path, key: str, file: Path) -> str:
    """Return a hash of a file's content."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"{path}: {key}: {file}: cannot be read ({error.strerror}); expected a file, seen from the grid's folder."
        ) from error


def folder_sha256(path: Path, key: str, folder: Path) -> str:
    """Return a hash of the files that a model is read from: their names and contents."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _MODEL_FILES and file.is_file())
    lines = [f"{file.name} {file_sha256(path, key, file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
