"""Features of the frozen model, kept on disk and shared by all processes that need the same ones.

A folder of safetensors files, each named by a hash of everything its numbers depend on. Files are written whole, so
readers see all of one or none; two processes that compute the same features write the same file. The folder is named
by the environment variable ``BLOCKLORA_FEATURES`` (``blocklora bench`` sets it for its workers); without it nothing is
kept.

Axes: M = readable pictures, D = the width of a feature.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load, save

from blocklora.clip.encode import Encoded, encode_pictures
from blocklora.clip.features import image_features
from blocklora.clip.load import Clip
from blocklora.data import Source, Unreadable
from blocklora.files import write_bytes

__all__ = ["FOLDER_VARIABLE", "features_for", "pictures_hash", "remembered"]

FOLDER_VARIABLE = "BLOCKLORA_FEATURES"
MAX_BYTES = 4 * 1024**3
_LEFT_BEHIND_SECONDS = 3600.0


def features_for(
    pictures: Sequence[tuple[str, Source]],
    clip: Clip,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Return the frozen image tower's unit features (M, D) of pictures, in float32; computed only where not yet known.

    Args:
        pictures: Names (for messages) and sources, as ``encode_pictures`` takes them.
        clip: The model; its image tower must be as it was loaded, without an adapter, and on ``device``.
        device: Where to compute.
        dtype: What autocast computes in; None is float32.
        batch_size: Pictures at a time.
        on_batch: Told how many pictures are done; not called where the features are known.
    """

    def forward(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return image_features(clip.model, pixel_values)

    def compute() -> dict[str, torch.Tensor]:
        found = encode_pictures(
            pictures,
            forward,
            clip.processor,
            device=device,
            batch_size=batch_size,
            on_batch=on_batch,
        )
        bad.extend(found.unreadable)
        return {"features": found.features, "kept": torch.tensor(found.kept, dtype=torch.int64)}

    bad: list[Unreadable] = []
    what = {
        "pictures": pictures_hash(pictures),
        "image_tower": clip.sha256,
        "preprocessing": clip.processor.to_json_string(),
        "device": device.type,
        "dtype": str(dtype),
    }
    known = remembered(what, compute, keep=lambda _: not bad)  # a picture that fails is named anew each time
    return Encoded(known["features"], known["kept"].tolist(), bad)


def remembered(
    what: Mapping[str, Any],
    compute: Callable[[], dict[str, torch.Tensor]],
    *,
    keep: Callable[[dict[str, torch.Tensor]], bool] = lambda _: True,
) -> dict[str, torch.Tensor]:
    """Return tensors from the folder, or compute and keep them there.

    A folder that cannot be read or written is no error: the tensors are computed.

    Args:
        what: Everything that the tensors depend on, JSON-ready: the weights' hash, ``pictures_hash``, precision,
            augmentation and seed, ...
        compute: Makes the tensors, on the CPU, by name.
        keep: Whether what was computed is to be kept.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return compute()
    key = hashlib.sha256(json.dumps(dict(what), sort_keys=True).encode()).hexdigest()
    path = Path(folder) / f"{key}.safetensors"
    try:
        tensors = load(path.read_bytes())
        os.utime(path)  # used just now: the last to be dropped
        return tensors
    except (OSError, SafetensorError):
        pass
    tensors = compute()
    if keep(tensors):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
            _drop_oldest(path.parent, MAX_BYTES)
        except OSError:
            pass
    return tensors


def pictures_hash(pictures: Sequence[tuple[str, Source]]) -> str:
    """Return a SHA-256 over the content of pictures in their order; names do not count."""
    total = hashlib.sha256()
    for name, source in pictures:
        total.update(_digest(name, source))
    return total.hexdigest()


def _digest(name: str, source: Source) -> bytes:
    """Return the SHA-256 of a file, of bytes, or of a picture's pixels; a file that is gone counts by its name."""
    if isinstance(source, Image.Image):
        header = f"{source.mode} {source.size} {source.getpalette()}".encode()
        return hashlib.sha256(header + source.tobytes()).digest()
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    try:
        with open(source, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return hashlib.sha256(f"unreadable {name}".encode()).digest()


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
