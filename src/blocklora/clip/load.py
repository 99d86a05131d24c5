"""Load a CLIP checkpoint: a Hugging Face id, a local folder in the same format, or ``tiny`` (bundled).

Weights are read from safetensors only, and always as float32, whatever the file holds: transformers would
otherwise keep fp16 files in fp16, which a CPU computes slowly and an optimizer cannot train.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import logging as transformers_logging

from blocklora.errors import ModelError

__all__ = ["TINY", "Clip", "ImageTower", "load_clip", "load_image_tower"]

TINY = "tiny"
_TINY_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"
_HUB_SECONDS = 10.0
_WEIGHTS: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP model of two towers, and what belongs to it.

    Attributes:
        model: Float32, in evaluation mode, on the CPU; no parameter requires a gradient.
        tokenizer: Turns prompts into token ids.
        processor: Turns pictures into pixel values.
        model_id: What the user asked for; a folder's absolute path.
        revision: The hub's commit, or None for a folder.
        sha256: A hash of the image tower's weights, see ``image_tower_hash``.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessorPil
    model_id: str
    revision: str | None
    sha256: str

    @property
    def context_length(self) -> int:
        """The most tokens that the text tower reads, both special tokens included."""
        return int(self.model.text_model.config.max_position_embeddings)

    @property
    def depths(self) -> dict[str, int]:
        """How many transformer blocks each tower has: ``vision`` and ``text``."""
        return {
            "vision": int(self.model.vision_model.config.num_hidden_layers),
            "text": int(self.model.text_model.config.num_hidden_layers),
        }


@dataclass(frozen=True)
class ImageTower:
    """The image half of a CLIP model: all that a prediction needs. Attributes are as in ``Clip``."""

    model: CLIPVisionModelWithProjection
    processor: CLIPImageProcessorPil
    model_id: str
    revision: str | None
    sha256: str


def load_clip(model: str, revision: str | None = None) -> Clip:
    """Load both towers, the tokenizer and the image processor.

    Args:
        model: A Hugging Face id such as ``openai/clip-vit-base-patch16``, a local folder, or ``tiny``.
        revision: A branch, tag or commit on the hub; None is the cached or newest one.

    Raises:
        ModelError: The checkpoint is neither on disk nor to be fetched, is not a CLIP model, has no
            safetensors weights, or lacks its tokenizer or image processor.
    """

    def read(source: _Source) -> Clip:
        config = _read_config(source)
        network = source.read(CLIPModel, config=config, **_WEIGHTS)
        return Clip(
            model=network.eval().requires_grad_(False),
            tokenizer=_read_tokenizer(source, network),
            processor=source.read(CLIPImageProcessorPil),
            model_id=source.name,
            revision=source.commit(),
            sha256=image_tower_hash(network),
        )

    return _load(model, revision, read)


def load_image_tower(model: str, revision: str | None = None) -> ImageTower:
    """Load the image tower and its processor only; arguments and errors are ``load_clip``'s."""

    def read(source: _Source) -> ImageTower:
        config = _read_config(source)
        # The two towers of a checkpoint share one output width, but some vision configs carry a wrong one.
        config.vision_config.projection_dim = config.projection_dim
        network = source.read(CLIPVisionModelWithProjection, config=config.vision_config, **_WEIGHTS)
        return ImageTower(
            model=network.eval().requires_grad_(False),
            processor=source.read(CLIPImageProcessorPil),
            model_id=source.name,
            revision=source.commit(),
            sha256=image_tower_hash(network),
        )

    return _load(model, revision, read)


def image_tower_hash(model: torch.nn.Module) -> str:
    """Return a SHA-256 over the names, shapes and float32 values of a CLIP image tower's weights.

    Both ``CLIPModel`` and ``CLIPVisionModelWithProjection`` of one checkpoint give the same hash, so a
    prediction can check without the text tower that an adapter meets the weights it was trained on.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("vision_model.", "visual_projection.")) and not name.endswith("position_ids"):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


class _UnreadableError(ModelError):
    """A part of the checkpoint is not where it was looked for; another place may have it."""


@dataclass(frozen=True)
class _Source:
    """One place to read a checkpoint from: a folder, the local cache, or the hub."""

    name: str
    place: str
    options: dict[str, Any]

    def read(self, kind: Any, **extra: Any) -> Any:
        """Call ``kind.from_pretrained`` quietly; its failures become an ``_UnreadableError``."""
        with _quiet():
            try:
                return kind.from_pretrained(self.place, **self.options, **extra)
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise _UnreadableError(
                    f"{self.name}: its {kind.__name__} cannot be read: {reason} Expected a CLIP checkpoint in "
                    "transformers' format: config.json, safetensors weights (no pickle is read), tokenizer "
                    "files and preprocessor_config.json."
                ) from error

    def commit(self) -> str | None:
        """Return the hub's commit that the local cache holds, or None for a folder."""
        if "revision" not in self.options:
            return None
        found = try_to_load_from_cache(self.place, "config.json", revision=self.options["revision"])
        return Path(found).parent.name if isinstance(found, str) else None


def _load(model: str, revision: str | None, read: Callable[[_Source], _T]) -> _T:
    """Read a model from its folder; or else from the local cache; or else from the hub."""
    folder = _TINY_FOLDER if model == TINY else Path(model).expanduser()
    if folder.is_dir():
        name = TINY if model == TINY else str(folder.resolve())
        return read(_Source(name, str(folder), {"local_files_only": True}))
    options = {"revision": revision or "main"}
    try:
        return read(_Source(model, model, options | {"local_files_only": True}))
    except _UnreadableError:
        _ask_hub(model, revision)
        return read(_Source(model, model, options))


def _read_config(source: _Source) -> Any:
    """Read the config and refuse other kinds of model."""
    config = source.read(AutoConfig)
    if not isinstance(config, CLIPConfig):
        raise ModelError(
            f"{source.name}: this is a '{config.model_type}' model; blocklora adapts CLIP checkpoints (model_type "
            "'clip': OpenAI, LAION, DataComp, DFN, MetaCLIP), for example openai/clip-vit-base-patch16."
        )
    return config


def _read_tokenizer(source: _Source, network: CLIPModel) -> CLIPTokenizer:
    """Read the tokenizer, and check that it is the model's: without its files, transformers makes an empty one."""
    tokenizer: CLIPTokenizer = source.read(CLIPTokenizer)
    config = network.text_model.config
    # Old OpenAI configs say 2 for the end-of-text token and mean the last of the vocabulary.
    end = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    found = tokenizer("a")["input_ids"][-1]
    if found != end:
        raise ModelError(
            f"{source.name}: its tokenizer ends a prompt with token {found}, but the model expects {end}; the "
            "tokenizer files (tokenizer.json, or vocab.json and merges.txt) are missing or of another model."
        )
    return tokenizer


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports, and leave its settings as they were."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
