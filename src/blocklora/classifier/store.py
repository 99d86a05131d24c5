"""Features of frozen models, kept in a folder and shared by all runs that are given the same store.

Each is a safetensors file, named by the fingerprint of everything its values depend on. Files are written whole, so
readers see all of one or none; two processes that compute the same features write the same file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from blocklora.clip import Clip, ImageTower
from blocklora.core.device import Compute
from blocklora.core.errors import ImageError
from blocklora.core.files import write_bytes
from blocklora.core.fingerprint import fingerprint, numeric_versions
from blocklora.data import Source, content_digests

__all__ = ["NOTHING_KEPT", "FeatureStore", "frozen_facts"]

_MAX_BYTES = 4 * 1024**3
_LEFT_BEHIND_SECONDS = 3600.0
_FEATURES, _SECONDS = "features", "seconds"


class FeatureStore:
    """A folder of features.

    Args:
        folder: Where they are kept; None keeps nothing.
        max_bytes: The most bytes it may hold; what was unused for longest goes first.

    Attributes:
        seconds_spared: How long the features that were read here took whoever computed them. What a method costs is
            its own time and this, whoever came first.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = _MAX_BYTES) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self.seconds_spared = 0.0

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def recall(self, facts: Mapping[str, Any] | None) -> Tensor | None:
        """Return the features (R, D) that were kept for these facts; None where there are none, or no whole ones."""
        path = self._path(facts)
        if path is None:
            return None
        try:
            with safe_open(path, framework="pt") as file:
                features: Tensor = file.get_tensor(_FEATURES).clone()  # the file may go
                seconds = float(file.metadata()[_SECONDS])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        with suppress(OSError):
            path.touch()  # used just now: the last to be dropped
        self.seconds_spared += seconds
        return features

    def keep(self, facts: Mapping[str, Any] | None, features: Tensor, seconds: float) -> None:
        """Keep features; a folder that cannot be written is no error.

        Args:
            facts: What they depend on; None keeps nothing.
            features: Any shape.
            seconds: How long it took to compute them.
        """
        path = self._path(facts)
        if path is None:
            return
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save({_FEATURES: features.contiguous()}, {_SECONDS: str(seconds)}))
            _drop_oldest(path.parent, self._max_bytes)

    def _path(self, facts: Mapping[str, Any] | None) -> Path | None:
        """Return the file for these facts, or None where nothing is kept."""
        if facts is None or self.folder is None:
            return None
        return self.folder / f"{fingerprint(facts)}.safetensors"


NOTHING_KEPT = FeatureStore()
"""The store of those who share nothing."""


def frozen_facts(
    images: Sequence[tuple[str, Source]], base: Clip | ImageTower, compute: Compute, engine: str = "auto"
) -> dict[str, Any] | None:
    """Return what a frozen image tower's unit features of images, as a prediction sees them, depend on.

    Args:
        images: Names, which do not count, and sources, in the order of the features.
        base: The model that they are computed with.
        compute: Where and how precisely.
        engine: Which engine computes them.

    Returns:
        What ``recall`` and ``keep`` take, to which more may be added; None where an image's file cannot be read.
    """
    try:
        contents = content_digests(images)
    except ImageError:
        return None
    return {
        "images": fingerprint({"contents": contents}),
        "weights": base.sha256,
        "preprocessing": base.processor.to_json_string(),
        "device": compute.device.type,
        "precision": compute.precision,
        "engine": engine,
        "versions": numeric_versions(),
    }


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
