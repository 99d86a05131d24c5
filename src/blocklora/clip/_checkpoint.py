"""Where a checkpoint is read from, and whether its weights fit: folder, local cache or hub; safetensors only.

Weights are always read as float32, whatever the file holds: transformers would otherwise keep fp16 files in fp16,
which a CPU computes slowly and an optimizer cannot train. transformers fills a model up with random weights where a
file lacks some, and passes over weights it has no place for. Both are errors here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import safe_open

from blocklora.clip.quiet import quiet
from blocklora.core.errors import ModelError

__all__ = ["TINY", "Source", "UnreadableError", "read_checkpoint"]

TINY = "tiny"
_TINY_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"
_HUB_SECONDS = 10.0
_NAMED = 3  # how many tensors an error names
_WEIGHTS: Mapping[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
# What torch.compile, DataParallel, and transformers' own classes around a CLIP put into the names of weights. Another
# prefix is of an unknown class, which may hold more than a CLIP, so it is not taken off in silence.
_WRAPPERS = {r"^(?:(?:_orig_mod|module|clip|metaclip_2)\.)+": "", r"\._orig_mod\.": "."}
# No feature depends on these: position ids are counted anew, and one bias is the same for every class.
_NOT_NEEDED = ("position_ids", "logit_bias")
_BESIDE_THE_IMAGE_TOWER = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
_T = TypeVar("_T")


class UnreadableError(ModelError):
    """A part of the checkpoint is not where it was looked for; another place may have it."""


@dataclass(frozen=True)
class Source:
    """One place to read a checkpoint from.

    Attributes:
        name: What messages and records call the model: a hub id, a folder's absolute path, or ``tiny``.
        place: The folder or the hub id.
        revision: A branch, tag or commit on the hub; None for a folder.
        local: Whether only this machine is looked at.
    """

    name: str
    place: str
    revision: str | None = None
    local: bool = True

    def read(self, kind: str, **extra: Any) -> Any:
        """Call ``from_pretrained`` of a class of transformers quietly.

        Raises:
            UnreadableError: It failed.
        """
        if self.revision:
            extra["revision"] = self.revision
        with quiet():
            try:
                return getattr(transformers, kind).from_pretrained(
                    self.place, local_files_only=self.local, **extra
                )
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise UnreadableError(
                    f"{self.name}: its {kind} cannot be read: {reason} Expected a checkpoint in "
                    "transformers' format: config.json, safetensors weights (no pickle is read), tokenizer "
                    "files and preprocessor_config.json."
                ) from error

    def read_model(self, kind: str, config: Any, *, image_tower_only: bool = False) -> Any:
        """Read a model with its weights: frozen, float32, in evaluation mode.

        Args:
            kind: The name of its class in transformers.
            config: Its configuration.
            image_tower_only: The class is an image tower, so that the text tower's weights may be left over.

        Raises:
            UnreadableError: There are no weights to read.
            ModelError: A weight is missing, left over, of another shape, or not finite.
        """
        network, report = self.read(
            kind,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below with their names
            key_mapping=_WRAPPERS,
            **_WEIGHTS,
        )
        if getattr(network, "_hf_peft_config_loaded", False):
            raise ModelError(
                f"{self.name}: an adapter (adapter_config.json) lies beside the weights, and transformers has put "
                "it into the model; move the adapter's files to a folder of their own."
            )
        _check_names(self.name, kind, report, image_tower_only)
        _check_unique(self.name, self._names_of_weights())
        _check_values(self.name, network)
        vars(network).pop(
            "_weight_conversions", None
        )  # or save_pretrained would bring the wrappers' names back
        return network.eval().requires_grad_(False)

    def commit(self) -> str | None:
        """Return the hub's commit that the local cache holds, or None for a folder."""
        config = self._file("config.json") if self.revision else None
        return config.parent.name if config else None

    def _file(self, name: str) -> Path | None:
        """Return one of the checkpoint's files on this machine."""
        if self.revision:
            found = try_to_load_from_cache(self.place, name, revision=self.revision)
            return Path(found) if isinstance(found, str) else None
        path = Path(self.place) / name
        return path if path.is_file() else None

    def _names_of_weights(self) -> list[str]:
        """Return what the weights are called in the file, or in the list of several files."""
        if file := self._file("model.safetensors"):
            with safe_open(file, framework="pt") as weights:
                return list(weights.keys())
        index = self._file("model.safetensors.index.json")
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"]) if index else []


def read_checkpoint(model: str, revision: str | None, read: Callable[[Source], _T]) -> _T:
    """Read a model from its folder; or else from the local cache; or else from the hub.

    Args:
        model: A Hugging Face id, a local folder, or ``tiny``.
        revision: A branch, tag or commit on the hub; None is the cached or newest one.
        read: What to read; called again where the first place lacks something.

    Raises:
        ModelError: The model is nowhere, or ``read`` raised it.
    """
    folder = _TINY_FOLDER if model == TINY else Path(model).expanduser()
    if folder.is_dir():
        name = TINY if model == TINY else str(folder.resolve())
        return read(Source(name, str(folder)))
    if folder.is_absolute() or folder.exists():
        found = "this is a file" if folder.exists() else "there is no such folder (any more)"
        raise ModelError(
            f"{model}: {found}; expected a folder that holds a model, or a model's id on the hub."
        )
    on_hub = Source(model, model, revision or "main")
    try:
        return read(on_hub)
    except UnreadableError:
        _ask_hub(model, revision)
        return read(replace(on_hub, local=False))


def _check_names(name: str, kind: str, report: Mapping[str, Any], image_tower_only: bool) -> None:
    """Raise unless every weight of the model was in the file, and every weight of the file went into the model."""
    beside = _BESIDE_THE_IMAGE_TOWER if image_tower_only else ()
    missing = {key for key in report["missing_keys"] if not key.endswith(_NOT_NEEDED)}
    unknown = {
        key
        for key in report["unexpected_keys"]
        if not key.endswith(_NOT_NEEDED) and not key.startswith(beside)
    }
    shapes = {
        f"{key} {tuple(given)} in place of {tuple(expected)}"
        for key, given, expected in report["mismatched_keys"]
    }
    faults = [("missing", missing), ("unknown to the model", unknown), ("of another shape", shapes)]
    told = [f"{_tensors(keys)} {fault} ({_some(keys)})" for fault, keys in faults if keys]
    if told:
        raise ModelError(
            f"{name}: its weights are not those of a {kind} with this config.json: {'; '.join(told)}. "
            "Expected transformers' names and shapes: use the config.json that belongs to the weights, or write the "
            f"{_how_to_write(missing, unknown)}."
        )


def _check_unique(name: str, keys: list[str]) -> None:
    """Raise if the file holds a weight twice, with and without a wrapper's name: only one of them would be used."""
    twice = [key for key, count in Counter(map(_unwrapped, keys)).items() if count > 1]
    if twice:
        raise ModelError(
            f"{name}: {_tensors(twice)} in the file twice, with and without the name of a wrapper ({_some(twice)}). "
            "Write the file again with one of them."
        )


def _unwrapped(key: str) -> str:
    """Return a weight's name without those of wrappers."""
    for pattern, plain in _WRAPPERS.items():
        key = re.sub(pattern, plain, key)
    return key


def _how_to_write(missing: set[str], unknown: set[str]) -> str:
    """Return how the file must be written again; a prefix that is too many is named."""
    for key in sorted(missing):
        for longer in unknown:
            if longer.endswith(f".{key}"):
                return f"file again without the prefix '{longer.removesuffix(key)}' in its names"
    return "folder again with the model's save_pretrained"


def _check_values(name: str, network: torch.nn.Module) -> None:
    """Raise unless all weights are finite."""
    doubtful = {
        key: value for key, value in network.state_dict().items() if not value.sum().isfinite()
    }  # a fast sieve
    bad = [key for key, value in doubtful.items() if not value.isfinite().all()]
    if bad:
        raise ModelError(
            f"{name}: {_tensors(bad)} not finite (NaN or infinity: {_some(bad)}). The file is damaged, or the "
            "training that wrote it had diverged; use another copy or an earlier checkpoint."
        )


def _tensors(keys: Collection[str]) -> str:
    """Return the beginning of a sentence about so many tensors."""
    return "1 tensor is" if len(keys) == 1 else f"{len(keys)} tensors are"


def _some(keys: Collection[str]) -> str:
    """Return the first few names, and whether there are more."""
    names = sorted(keys)
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _ask_hub(model: str, revision: str | None) -> None:
    """Ask the hub once, briefly, whether it has the model; say clearly why not."""
    hint = (
        "Check the spelling, or give a local folder that holds the model; '--model tiny' needs no download."
    )
    try:
        HfApi().model_info(model, revision=revision, timeout=_HUB_SECONDS)
    except GatedRepoError as error:
        raise ModelError(
            f"{model}: its owner asks for a licence to be accepted; do so on the hub and log in with 'hf auth login'."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"{model}: no such folder here, and no such model{at} on the Hugging Face hub. {hint}"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{model}: no such folder here, not whole in the local Hugging Face cache, and the hub cannot be "
            f"reached ({type(error).__name__}). {hint}"
        ) from error
