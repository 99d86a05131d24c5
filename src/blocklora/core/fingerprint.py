"""The one way to say whether two things are the same: a hash of the facts that they depend on.

It names a resumable run (settings, contents of its images, base weights, versions), a run of a grid (settings), and
features that are kept (contents of the images, base weights, preprocessing, versions).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

__all__ = ["fingerprint", "numeric_versions", "recorded_versions"]

_NUMERIC = ("blocklora", "torch", "transformers")  # another version of these can change what a model computes
_RECORDED = (*_NUMERIC, "peft", "safetensors", "pillow", "numpy")


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of JSON-ready facts; the order of their names makes no difference."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def numeric_versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a model computes."""
    return {package: version(package) for package in _NUMERIC}


def recorded_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, to be kept beside it."""
    return {"python": platform.python_version()} | {package: version(package) for package in _RECORDED}
