"""What can be said of a command before torch is imported, which takes seconds: names, and the nearest to a wrong one.

The names are those of rooms that import torch; a test compares them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from blocklora.core.errors import ConfigError, RunError
from blocklora.core.words import did_you_mean

__all__ = [
    "CHOICES",
    "METHODS",
    "OPENAI",
    "check_choice",
    "check_data",
    "check_method",
    "check_model",
    "check_run",
]

_ADAPTER = (
    "iterations", "batch_size", "lr", "weight_decay", "r", "n_blocks", "alpha", "dropout", "parametrization",
    "arm_dropout", "towers", "targets", "layers", "augment", "engine", "prefix_sharing", "memory_limit",
    "cached_views",
)  # fmt: skip
_PROMPT = ("n_context", "words", "lr", "batch_size", "epochs", "augment")
_PASSES = ("passes", "smallest_crop", "augment")
_TIP = ("alpha", "beta", "largest_alpha", "largest_beta", *_PASSES)
_WEIGHTS = ("iterations", "lr", "weight_decay", "batch_size", "augment")

METHODS: dict[str, tuple[str, ...]] = {
    "block-lora": _ADAPTER,
    "block-lora-gda": (*_ADAPTER, "folds"),
    "auto": ("seconds", "augment", "memory_limit"),
    "clip-lora": _ADAPTER,
    "zero-shot": (),
    "linear-probe": ("c", "max_iterations"),
    "zero-shot-probe": ("lr", "momentum", "weight_decay", "batch_size", "epochs", *_PASSES),
    "tip-adapter": _TIP,
    "tip-adapter-f": ("lr", "eps", "weight_decay", "batch_size", "epochs", *_TIP),
    "clip-adapter": ("ratio", "reduction", "lr", "batch_size", "epochs", *_PASSES),
    "taskres": ("alpha", "lr", "weight_decay", "batch_size", "epochs", *_PASSES),
    "lp++": ("epochs", "alpha_scale", "alpha_every", *_PASSES),
    "prototypes": ("weight",),
    "gda": ("alpha",),
    "proker": ("beta", "ridge"),
    "prolip": ("lr", "eps", "penalty", "epochs", *_PASSES),
    "layer-norm": _WEIGHTS,
    "2sfs": (*_WEIGHTS, "first_stage"),
    "full": _WEIGHTS,
    "peft": (*_ADAPTER, "peft_config"),
    "coop": _PROMPT,
    "kgcoop": (*_PROMPT, "weight"),
    "prograd": (*_PROMPT, "weight", "temperature"),
    "cocoop": (*_PROMPT, "reduction"),
    "maple": (*_PROMPT, "depth"),
    "promptsrc": (
        *_PROMPT, "depth", "n_image_context", "text_weight", "image_weight", "mean_epoch", "spread",
    ),
}  # fmt: skip
"""Every method and its settings."""

OPENAI = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336": "openai/clip-vit-large-patch14-336",
}
"""What OpenAI called its models, and their ids on the hub."""

CHOICES: dict[str, tuple[str, ...]] = {
    "protocol": ("coop", "clip-lora"),
    "test": ("cross-validation",),
    "prompts": ("imagenet-7", "imagenet-80"),
    "parametrization": ("blocks", "folded"),
    "towers": ("both", "vision", "text"),
    "augment": ("crop-flip", "crop", "none"),
    "engine": ("auto", "lean", "plain"),
    "prefix_sharing": ("on", "off"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "export_format": ("lora", "hf", "onnx", "numpy"),
    "export_precision": ("fp32", "fp16", "int8"),
}
"""Options that take one of a few words."""


def check_method(method: str, settings: Iterable[str] = ()) -> None:
    """Raise unless there is such a method, and it has such settings.

    Raises:
        ConfigError: It names the nearest.
    """
    if method not in METHODS:
        raise ConfigError(
            f"method '{method}': expected one of {', '.join(METHODS)}{did_you_mean(method, METHODS) or '.'}"
        )
    for name in settings:
        known = METHODS[method]
        if name not in known:
            expected = f"some of {', '.join(known)}" if known else "none"
            hint = did_you_mean(name, known) or "."
            raise ConfigError(f"unknown option '{name}': expected {expected} (the options of {method}){hint}")


def check_choice(name: str, value: str | None) -> None:
    """Raise unless an option in ``CHOICES`` has one of its values, or none."""
    if value is not None and value not in CHOICES[name]:
        expected = f"one of {', '.join(CHOICES[name])}"
        raise ConfigError(f"{name} '{value}': expected {expected}{did_you_mean(value, CHOICES[name]) or '.'}")


def check_model(model: str) -> None:
    """Raise for a model's name that is nearly a known one; hub ids and folders are not looked for."""
    if os.path.exists(os.path.expanduser(model)):
        return
    ids = {name.lower(): hub for name, hub in OPENAI.items()}
    ids |= {name.removeprefix("vit-"): hub for name, hub in ids.items()}
    near = ids.get(model.lower())
    if near is None and "/" not in model and difflib.get_close_matches(model.lower(), ["tiny"]):
        near = "tiny"
    if near and near != model:
        raise ConfigError(
            f"model '{model}': expected a CLIP model's id on the Hugging Face hub, a folder, or tiny; did you mean "
            f"'{near}'?"
        )


def check_data(data: str, root: str | None) -> None:
    """Raise unless there is such a path or data set; what it holds is not looked at.

    Raises:
        DataError: It names the nearest.
    """
    from blocklora.data import bundled_names, known_benchmark, load_dataset

    if root is not None:
        known_benchmark(data)
    elif (
        not data.startswith("hf:")
        and data not in bundled_names()
        and not os.path.exists(os.path.expanduser(data))
    ):
        load_dataset(data)  # it says what is wrong with the name


def check_run(run: Path) -> None:
    """Raise unless there is a folder of a run's name; what it holds is not looked at."""
    if not run.is_dir():
        raise RunError(f"{run}: no such folder; expected a RUN folder that 'blocklora fit' has written.")
