"""A user's own methods: a Python file with a dictionary ``METHODS``, as ``blocklora.methods`` has one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Method

__all__ = ["BUILT_IN", "load_methods"]

BUILT_IN = frozenset(METHODS)


def load_methods(path: Path) -> dict[str, Method]:
    """Run a Python file and add its ``METHODS`` to blocklora's, for this process.

    Args:
        path: The file. It runs with all that you may do: name only files that you trust.

    Returns:
        What was added.

    Raises:
        ConfigError: The file is missing or fails, has no such dictionary, or takes a built-in method's name.
    """
    spec = importlib.util.spec_from_file_location(f"blocklora_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(
            f"{path}: there is no such Python file; methods_from names one with a dictionary METHODS."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: running it fails: {type(error).__name__}: {error}") from error
    found = getattr(module, "METHODS", None)
    if not (isinstance(found, dict) and found and all(isinstance(value, Method) for value in found.values())):
        raise ConfigError(
            f'{path}: expected a dictionary METHODS = {{"my-method": Method(fit, Settings)}} in it.'
        )
    for name in found:
        if name in BUILT_IN:
            raise ConfigError(
                f"{path}: METHODS has '{name}', which is a method of blocklora; choose another name."
            )
    METHODS.update(found)
    return found
