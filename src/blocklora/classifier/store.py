"""Features of the frozen model, kept on disk and shared by all processes that need the same ones.

A folder of safetensors files, each named by a hash of everything its numbers depend on. Files are written whole, so
readers see all of one or none; two processes that compute the same features write the same file. The folder is named
by the environment variable ``BLOCKLORA_FEATURES`` (``blocklora bench`` sets it for its workers); without it nothing is
kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blocklora.core.errors import ImageError
from blocklora.core.files import write_bytes
from blocklora.data import Source, content_digests

__all__ = ["FOLDER_VARIABLE", "FrozenModel", "frozen_features", "keep", "recall", "seconds_spared"]

FOLDER_VARIABLE = "BLOCKLORA_FEATURES"
MAX_BYTES = 4 * 1024**3
_LEFT_BEHIND_SECONDS = 3600.0
_FEATURES, _SECONDS = "features", "seconds"
_spared: list[float] = []


class FrozenModel(Protocol):
    """A model as it was loaded: where from, its image tower's hash, and its image processor."""

    @property
    def model_id(self) -> str:
        """A hub id, a folder, or ``tiny``."""
        ...

    @property
    def revision(self) -> str | None:
        """The hub's commit."""
        ...

    @property
    def sha256(self) -> str:
        """A hash of the weights."""
        ...

    @property
    def processor(self) -> Any:
        """The checkpoint's image processor."""
        ...


def frozen_features(
    pictures: Sequence[tuple[str, Source]], model: FrozenModel, device: torch.device, precision: str
) -> dict[str, Any] | None:
    """Return what the frozen image tower's unit features of pictures, as a test sees them, depend on.

    Args:
        pictures: Names, which do not count, and sources, in the order of the features.
        model: The model that they are computed with.
        device: Where it is computed.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Returns:
        What ``recall`` and ``keep`` take, to which more may be added; None where nothing is kept, or a picture's
        file cannot be read.
    """
    if not os.environ.get(FOLDER_VARIABLE):
        return None
    try:
        contents = content_digests(pictures)
    except ImageError:
        return None
    return {
        "pictures": hashlib.sha256(" ".join(contents).encode()).hexdigest(),
        "model": [model.model_id, model.revision, model.sha256],
        "preprocessing": model.processor.to_json_string(),
        "device": device.type,
        "precision": precision,
        "versions": [version(package) for package in ("blocklora", "torch", "transformers")],
    }


def recall(what: Mapping[str, Any] | None) -> torch.Tensor | None:
    """Return the features that were kept for ``what``; None where there are none, or no whole ones."""
    path = _path(what)
    if path is None:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            features: torch.Tensor = file.get_tensor(_FEATURES).clone()  # the file may go
            seconds = float(file.metadata()[_SECONDS])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    with suppress(OSError):
        os.utime(path)  # used just now: the last to be dropped
    _spared.append(seconds)
    return features


def keep(what: Mapping[str, Any] | None, features: torch.Tensor, seconds: float) -> None:
    """Keep features for ``what``, where a folder is named; one that cannot be written is no error.

    Args:
        what: What they depend on.
        features: Any shape.
        seconds: How long it took to compute them.
    """
    path = _path(what)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({_FEATURES: features.contiguous()}, {_SECONDS: str(seconds)}))
        _drop_oldest(path.parent, MAX_BYTES)
    except OSError:
        pass


def seconds_spared() -> float:
    """Return how long the features that this process has read were computed, by others or before.

    What a method costs is its own time and this, whoever came first.
    """
    return sum(_spared)


def _path(what: Mapping[str, Any] | None) -> Path | None:
    """Return the file of ``what``, or None where nothing is kept."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if what is None or not folder:
        return None
    return (
        Path(folder)
        / f"{hashlib.sha256(json.dumps(dict(what), sort_keys=True).encode()).hexdigest()}.safetensors"
    )


def _drop_oldest(folder: Path, max_bytes: int) -> None:
    """Remove the files unused for longest until the rest fits, and what a killed process left behind."""
    files = []
    for path in folder.iterdir():
        try:
            status = path.stat()
            if path.suffix == ".safetensors":
                files.append((status.st_mtime, status.st_size, path))
            elif path.suffix == ".tmp" and time.time() - status.st_mtime > _LEFT_BEHIND_SECONDS:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        try:
            path.unlink(missing_ok=True)
        except PermissionError:  # open in another process, on Windows
            continue
        total -= size
