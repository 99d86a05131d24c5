"""A classifier as numpy arrays, and a forward pass that needs numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blocklora.classifier import Classifier
from blocklora.core.errors import ConfigError
from blocklora.export.facts import Facts
from blocklora.export.tower import check_head, merged_model

__all__ = ["write_arrays", "write_head"]

_ACTIVATIONS = ("quick_gelu", "gelu")  # of consumers/tower.py
_FAMILIES = ("clip_vision_model", "clip", "metaclip_2_vision_model", "metaclip_2")


def write_arrays(folder: Path, classifier: Classifier, facts: Facts) -> Facts:
    """Write tower.npz and head.npz, and return the facts with what the tower has to know.

    Raises:
        ConfigError: The model's image tower is not a CLIP's.
    """
    check_head(classifier)
    tower = merged_model(classifier)
    config = tower.vision_model.config
    if tower.config.model_type not in _FAMILIES or config.hidden_act not in _ACTIVATIONS:
        raise ConfigError(
            f"{facts.model}: is a {tower.config.model_type} with activation {config.hidden_act}; expected an image "
            f"tower of CLIP with {' or '.join(_ACTIVATIONS)} for --format numpy. Use --format onnx."
        )
    prompts = classifier.image.prompts
    beside = {} if prompts is None else {"prompts": prompts.numpy()}
    _save(folder / "tower.npz", {**_weights(tower), **beside})
    if classifier.reads_both:
        _save(folder / "base_tower.npz", _weights(classifier.base.model))
    write_head(folder, classifier)
    settings = {
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "activation": config.hidden_act,
        "eps": config.layer_norm_eps,
    }
    return replace(facts, tower=settings)


def write_head(folder: Path, classifier: Classifier) -> None:
    """Write the head's tensors: head.npz. Those of a mixture's heads are called 0/NAME, 1/NAME, ..."""
    tensors = dict(classifier.head.tensors)
    for place, member in enumerate(classifier.head.members):
        tensors |= {f"{place}/{name}": value for name, value in member.head.tensors.items()}
    _save(folder / "head.npz", {name: value.numpy() for name, value in tensors.items()})


def _weights(tower: Any) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of an image tower, by their names in it."""
    return {
        name.removeprefix("vision_model."): value.numpy()
        for name, value in tower.state_dict().items()
        if name.startswith(("vision_model.", "visual_projection.")) and "position_ids" not in name
    }


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, contiguous, so that a program without pickle reads them."""
    np.savez(
        path, allow_pickle=False, **{name: np.ascontiguousarray(value) for name, value in arrays.items()}
    )
