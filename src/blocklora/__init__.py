"""blocklora: a CLIP classifier from a handful of labelled images, by Block-LoRA (arXiv 2501.16720).

All but the errors are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from blocklora.core import errors
from blocklora.core.errors import BlockloraError, ConfigError, DataError, ImageError, ModelError, RunError

if TYPE_CHECKING:
    from blocklora.adapter import (
        BlockLoraConfig,
        BlockLoraModel,
        fold_to_lora,
        generalization_bound,
        param_groups,
        unfold_lora,
    )
    from blocklora.estimator import FewShotClassifier

__version__ = version("blocklora")

__all__ = [
    "BlockLoraConfig",
    "BlockLoraModel",
    "BlockloraError",
    "ConfigError",
    "DataError",
    "FewShotClassifier",
    "ImageError",
    "ModelError",
    "RunError",
    "fold_to_lora",
    "generalization_bound",
    "param_groups",
    "unfold_lora",
]

_HOMES = {
    "BlockLoraConfig": "blocklora.adapter",
    "BlockLoraModel": "blocklora.adapter",
    "FewShotClassifier": "blocklora.estimator",
    "fold_to_lora": "blocklora.adapter",
    "generalization_bound": "blocklora.adapter",
    "param_groups": "blocklora.adapter",
    "unfold_lora": "blocklora.adapter",
}

sys.modules["blocklora.errors"] = errors  # the public name of the exceptions' module, as os has os.path


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'blocklora' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
