"""Image features of a fitted classifier, and beside them those of the model as it was before.

Axes: M = pictures, D = the width of CLIP's shared space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from blocklora.classifier.pictures import Encoded, encode_pictures
from blocklora.classifier.save import Saved
from blocklora.classifier.store import frozen_features, keep, recall
from blocklora.classifier.tower import changed_image_features
from blocklora.clip import image_features
from blocklora.core.device import autocast
from blocklora.data import Source

__all__ = ["base_model", "encode"]


def encode(
    saved: Saved,
    pictures: Sequence[tuple[str, Source]],
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    zero_shot: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Compute unit image features. Those of the frozen model are shared between the runs of a bench.

    Args:
        saved: The classifier, on the device.
        pictures: Names, for messages, and sources.
        device: Where to compute.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: Pictures that go through the image tower at a time.
        zero_shot: Whether the features of the model as it was before are wanted, too.
        on_batch: Told how many pictures are done.

    Returns:
        Features (M, D), or with ``zero_shot`` (M, 2, D): adapted, and as before.
    """
    adapter = hasattr(saved.model, "disable_adapter")
    untouched = not adapter and not saved.tower
    what = frozen_features(pictures, saved, device, precision) if zero_shot or untouched else None
    known = recall(what)  # (1, M, D)
    if known is not None and untouched:
        features = torch.stack([known[0], known[0]], dim=1) if zero_shot else known[0]
        if on_batch:
            on_batch(len(features))
        return Encoded(features, list(range(len(features))), [])

    def forward(pixel_values: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            adapted = changed_image_features(base_model(saved.model), saved.tower, pixel_values)
            if not zero_shot or known is not None:
                return adapted
            plain = adapted
            if not untouched:
                with saved.model.disable_adapter() if adapter else nullcontext():
                    plain = image_features(base_model(saved.model), pixel_values)
            return torch.stack([adapted, plain], dim=1)

    began = time.monotonic()
    found = encode_pictures(
        pictures, forward, saved.processor, device=device, batch_size=batch_size, on_batch=on_batch
    )
    if known is not None:
        return replace(found, features=torch.stack([found.features, known[0, found.kept]], dim=1))
    if what is not None and found.kept and not found.unreadable:
        plain = (found.features[:, 1] if zero_shot else found.features)[None]
        keep(what, plain, time.monotonic() - began)
    return found


def base_model(model: Any) -> Any:
    """Return the CLIP model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
