"""Load a checkpoint of CLIP or a relative: a Hugging Face id, a local folder in that format, or ``tiny`` (bundled).

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
from tokenizers import normalizers
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from blocklora.clip.families import FAMILIES, Family
from blocklora.clip.preprocess import square_processor
from blocklora.core.errors import ModelError

__all__ = ["TINY", "Clip", "ImageTower", "load_clip", "load_image_tower", "read_clip_config"]

TINY = "tiny"
_TINY_FOLDER = Path(__file__).parents[1] / "assets" / "tiny"
_HUB_SECONDS = 10.0
_WEIGHTS: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Clip:
    """A frozen model of two towers, and what belongs to it.

    Attributes:
        model: A ``CLIPModel`` or its like in another family; float32, in evaluation mode, on the CPU; no
            parameter requires a gradient.
        tokenizer: Turns prompts into token ids.
        processor: Turns pictures into pixel values.
        model_id: What the user asked for; a folder's absolute path.
        revision: The hub's commit, or None for a folder.
        sha256: A hash of the image tower's weights, see ``image_tower_hash``.
    """

    model: Any
    tokenizer: Any
    processor: Any
    model_id: str
    revision: str | None
    sha256: str

    @property
    def model_type(self) -> str:
        """The family's name: ``clip``, ``siglip``, ``siglip2``, ``chinese_clip`` or ``metaclip_2``."""
        return str(self.model.config.model_type)

    @property
    def family(self) -> Family:
        """In what the family differs from others."""
        return FAMILIES[self.model_type]

    @property
    def context_length(self) -> int:
        """The most tokens that the text tower reads, both special tokens included."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def depths(self) -> dict[str, int]:
        """How many transformer blocks each tower has: ``vision`` and ``text``."""
        return {
            "vision": int(self.model.config.vision_config.num_hidden_layers),
            "text": int(self.model.config.text_config.num_hidden_layers),
        }


@dataclass(frozen=True)
class ImageTower:
    """The image half of a model: all that a prediction needs. Attributes are as in ``Clip``.

    Where transformers has no class for a family's image tower with its projection (SigLIP, SigLIP 2, ChineseCLIP),
    ``model`` is the whole model, and its text tower lies idle.
    """

    model: Any
    processor: Any
    model_id: str
    revision: str | None
    sha256: str


def load_clip(model: str, revision: str | None = None) -> Clip:
    """Load both towers, the tokenizer and the image processor.

    Args:
        model: A Hugging Face id such as ``openai/clip-vit-base-patch16``, a local folder, or ``tiny``.
        revision: A branch, tag or commit on the hub; None is the cached or newest one.

    Raises:
        ModelError: The checkpoint is neither on disk nor to be fetched, is of no family in ``FAMILIES``, has no
            safetensors weights, or lacks its tokenizer or image processor.
    """

    def read(source: _Source) -> Clip:
        config, family = _read_config(source)
        network = source.read(family.model, config=config, **_WEIGHTS)
        tokenizer = _read_tokenizer(source, family, config)
        # The features pad with what the config says, which in SigLIP 2's is a default of transformers.
        network.config.text_config.pad_token_id = tokenizer.pad_token_id
        return Clip(
            model=network.eval().requires_grad_(False),
            tokenizer=tokenizer,
            processor=_read_processor(source, family, config),
            model_id=source.name,
            revision=source.commit(),
            sha256=image_tower_hash(network),
        )

    return _load(model, revision, read)


def load_image_tower(model: str, revision: str | None = None) -> ImageTower:
    """Load the image tower and its processor only; arguments and errors are ``load_clip``'s."""

    def read(source: _Source) -> ImageTower:
        config, family = _read_config(source)
        if family.image_tower:
            # The two towers of a checkpoint share one output width, but some vision configs carry a wrong one.
            config.vision_config.projection_dim = config.projection_dim
            network = source.read(family.image_tower, config=config.vision_config, **_WEIGHTS)
        else:
            network = source.read(family.model, config=config, **_WEIGHTS)
        return ImageTower(
            model=network.eval().requires_grad_(False),
            processor=_read_processor(source, family, config),
            model_id=source.name,
            revision=source.commit(),
            sha256=image_tower_hash(network),
        )

    return _load(model, revision, read)


def read_clip_config(model: str) -> Any:
    """Read the configuration of a CLIP model, without its weights; errors are ``load_clip``'s."""
    config = _load(model, None, lambda source: _read_config(source)[0])
    if config.model_type != "clip":
        raise ModelError(f"{model}: this is a '{config.model_type}' model; expected a CLIP model.")
    return config


def image_tower_hash(model: torch.nn.Module) -> str:
    """Return a SHA-256 over the names, shapes and float32 values of an image tower's weights.

    The whole model and the image tower alone of one checkpoint give the same hash, so a
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
                    f"{self.name}: its {kind.__name__} cannot be read: {reason} Expected a checkpoint in "
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


def _read_config(source: _Source) -> tuple[Any, Family]:
    """Read the config, and refuse other kinds of model."""
    config = source.read(AutoConfig)
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"{source.name}: this is a '{config.model_type}' model; blocklora adapts dual encoders of model_type "
            f"{', '.join(FAMILIES)}, for example openai/clip-vit-base-patch16."
        )
    if not getattr(config.vision_config, "vision_use_head", True):
        raise ModelError(
            f"{source.name}: its image tower has no pooling head (vision_use_head is false in config.json), so it "
            "gives no feature for a whole picture; use a checkpoint with one."
        )
    return config, FAMILIES[config.model_type]


def _read_tokenizer(source: _Source, family: Family, config: Any) -> Any:
    """Read the tokenizer, and check that it is the model's: without its files, transformers makes an empty one."""
    tokenizer = source.read(family.tokenizer)
    if config.model_type == "siglip" and tokenizer.is_fast:
        # All SigLIPs saw lower-case text only. SigLIP's own class sees to it; the one that SigLIP 2 names does not.
        backend = tokenizer.backend_tokenizer
        kept = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *kept])
    tokenizer.padding_side = "right"  # the side that all families were trained with
    ids, end = tokenizer("a")["input_ids"], _end_token(tokenizer, config)
    if ids[-1] != end or tokenizer.unk_token_id in ids[:-1]:
        raise _UnreadableError(
            f"{source.name}: its tokenizer makes the tokens {ids} of 'a'; expected a known word and the end token "
            f"{end}. The tokenizer files (tokenizer.json, or vocab.json with merges.txt, vocab.txt or spiece.model) "
            "are missing or of another model."
        )
    return tokenizer


def _end_token(tokenizer: Any, config: Any) -> int | None:
    """Return the token that ends every prompt."""
    text = config.text_config
    if config.model_type == "clip":
        # Old OpenAI configs say 2 for the end-of-text token and mean the last of the vocabulary.
        return int(text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id)
    if config.model_type == "metaclip_2":
        return int(text.eos_token_id)  # where the tower is read; here 2 is 2
    # The others are read at the first or the last place, and need not say in the config what ends a prompt.
    end: int | None = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    return end


def _read_processor(source: _Source, family: Family, config: Any) -> Any:
    """Read the image processor, and check that it makes the squares that the model reads."""
    processor = source.read(family.processor)
    if config.model_type == "siglip2":
        return square_processor(processor, config.vision_config.patch_size)
    made = processor.crop_size if processor.do_center_crop else processor.size
    side = config.vision_config.image_size
    if (made["height"], made["width"]) != ((side, side) if isinstance(side, int) else tuple(side)):
        raise ModelError(
            f"{source.name}: its image processor makes pictures of size {dict(made)}, but the model reads {side} "
            "pixels a side; expected preprocessor_config.json and config.json of one checkpoint."
        )
    return processor


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
