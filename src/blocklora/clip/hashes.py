"""Hashes of a model's weights, by which a run knows that it meets the weights it was made with.

All are of float32 values, so that a file of another precision with equal values has the same hash. ``position_ids``
count for nothing: versions of transformers differ in whether they are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["image_tower_hash", "model_hash", "text_tower_hash"]


def image_tower_hash(model: nn.Module) -> str:
    """Return a SHA-256 over the names, shapes and values of an image tower's weights.

    The whole model and the image tower alone of one checkpoint give the same hash, so a
    prediction can check without the text tower that an adapter meets the weights it was trained on.
    """
    digest = hashlib.sha256()
    for name, tensor in _weights(model, ("vision_model.", "visual_projection.")):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(_values(tensor))
    return digest.hexdigest()


def text_tower_hash(model: nn.Module) -> str:
    """Return a SHA-256 over the names and values of a whole model's text tower."""
    digest = hashlib.sha256()
    for name, tensor in _weights(model, ("text_model.", "text_projection.")):
        digest.update(name.encode())
        digest.update(_values(tensor))
    return digest.hexdigest()


def model_hash(image_tower: str, text_tower: str, logit_scale: Tensor) -> str:
    """Return one SHA-256 of a whole model, made of the hashes of its towers and its logit scale, a scalar."""
    return hashlib.sha256(f"{image_tower} {text_tower} {float(logit_scale)!r}".encode()).hexdigest()


def _weights(model: nn.Module, beginnings: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield a tower's weights by name, in order."""
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(beginnings) and not name.endswith("position_ids"):
            yield name, tensor


def _values(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's float32 values."""
    return tensor.detach().cpu().float().contiguous().view(-1).numpy().data
