"""The image tower that predicts, as one plain model: adapters and other changes are merged into a copy."""

from __future__ import annotations

import copy
from typing import Any

from blocklora.classifier import CONDITIONAL, MIXTURE, Classifier
from blocklora.clip import with_weights
from blocklora.core.errors import ConfigError

__all__ = ["check_head", "merged_model"]


def check_head(classifier: Classifier, *, mixtures: bool = True) -> None:
    """Refuse a head that runs the text tower for every image.

    Args:
        classifier: What is exported.
        mixtures: Whether the format has room for a head that mixes several.

    Raises:
        ConfigError: It is one.
    """
    if classifier.head.kind == MIXTURE and not mixtures:
        raise ConfigError(
            f"method '{classifier.method}': this classifier mixes several heads, which this format has no place for; "
            "use --format onnx or numpy."
        )
    if classifier.head.kind == CONDITIONAL:
        raise ConfigError(
            f"method '{classifier.method}' cannot be exported: it runs the text tower for every image. Use 'blocklora "
            "predict', or fit with another method, such as coop."
        )


def merged_model(classifier: Classifier) -> Any:
    """Return a copy of a classifier's model, one tower or both, in which everything learned is plain weights.

    Learned vectors that the image tower reads (``classifier.image.prompts``) are no weights, and stay outside.

    Raises:
        ConfigError: The adapter is of a kind that PEFT cannot merge.
    """
    if classifier.adapter is None:
        merged = copy.deepcopy(classifier.base.model)
    else:
        kind = classifier.adapter.peft_config["default"].peft_type
        try:
            merged = copy.deepcopy(classifier.adapter).merge_and_unload()
        except Exception as error:
            raise ConfigError(
                f"the adapter is a {kind}, which PEFT cannot merge into the model ({error}); export it with "
                "--format lora."
            ) from error
    changed = dict(classifier.image.weights)
    if classifier.text and hasattr(merged, "text_model"):
        changed |= classifier.text.weights
    return (with_weights(merged, changed) if changed else merged).eval().requires_grad_(False)
