"""Load a checkpoint of CLIP or a relative: a Hugging Face id, a local folder in that format, or ``tiny`` (bundled)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import normalizers

from blocklora.clip._checkpoint import TINY, Source, UnreadableError, read_checkpoint
from blocklora.clip.families import FAMILIES, Family
from blocklora.clip.hashes import image_tower_hash, model_hash, text_tower_hash
from blocklora.clip.preprocess import square_processor
from blocklora.core.errors import ModelError

__all__ = ["TINY", "Clip", "ImageTower", "load_clip", "load_image_tower", "read_clip_config"]


@dataclass(frozen=True)
class Clip:
    """A frozen model of two towers, and what belongs to it.

    Attributes:
        model: A ``CLIPModel`` or its like in another family; float32, in evaluation mode, on the CPU; no
            parameter requires a gradient.
        tokenizer: Turns prompts into token ids.
        processor: Turns images into pixel values.
        model_id: What the user asked for; a folder's absolute path.
        revision: The hub's commit, or None for a folder.
        sha256: A hash of the image tower's weights, see ``image_tower_hash``.
        model_sha256: A hash of all weights, see ``model_hash``.
    """

    model: Any
    tokenizer: Any
    processor: Any
    model_id: str
    revision: str | None
    sha256: str
    model_sha256: str

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
            safetensors weights or other ones than its config.json says, or lacks its tokenizer or image processor.
    """
    return read_checkpoint(model, revision, _read_clip)


def load_image_tower(model: str, revision: str | None = None) -> ImageTower:
    """Load the image tower and its processor only; arguments and errors are ``load_clip``'s."""
    return read_checkpoint(model, revision, _read_image_tower)


def read_clip_config(model: str, revision: str | None = None) -> Any:
    """Read the configuration of a CLIP model, without its weights; arguments and errors are ``load_clip``'s."""
    config = read_checkpoint(model, revision, lambda source: _read_config(source)[0])
    if config.model_type != "clip":
        raise ModelError(f"{model}: this is a '{config.model_type}' model; expected a CLIP model.")
    return config


def _read_clip(source: Source) -> Clip:
    """Read all of a model from one place."""
    config, family = _read_config(source)
    network = source.read_model(family.model, config)
    tokenizer = _read_tokenizer(source, family, config)
    # The features pad with what the config says, which in SigLIP 2's is a default of transformers.
    network.config.text_config.pad_token_id = tokenizer.pad_token_id
    image, text = image_tower_hash(network), text_tower_hash(network)
    return Clip(
        model=network,
        tokenizer=tokenizer,
        processor=_read_processor(source, family, config),
        model_id=source.name,
        revision=source.commit(),
        sha256=image,
        model_sha256=model_hash(image, text, network.logit_scale),
    )


def _read_image_tower(source: Source) -> ImageTower:
    """Read the image half of a model from one place."""
    config, family = _read_config(source)
    if family.image_tower:
        # The two towers of a checkpoint share one output width, but some vision configs carry a wrong one.
        config.vision_config.projection_dim = config.projection_dim
        network = source.read_model(family.image_tower, config.vision_config, image_tower_only=True)
    else:
        network = source.read_model(family.model, config)
    return ImageTower(
        model=network,
        processor=_read_processor(source, family, config),
        model_id=source.name,
        revision=source.commit(),
        sha256=image_tower_hash(network),
    )


def _read_config(source: Source) -> tuple[Any, Family]:
    """Read the config, and refuse other kinds of model."""
    config = source.read("AutoConfig")
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"{source.name}: this is a '{config.model_type}' model; blocklora adapts dual encoders of model_type "
            f"{', '.join(FAMILIES)}, for example openai/clip-vit-base-patch16."
        )
    if not getattr(config.vision_config, "vision_use_head", True):
        raise ModelError(
            f"{source.name}: its image tower has no pooling head (vision_use_head is false in config.json), so it "
            "gives no feature for a whole image; use a checkpoint with one."
        )
    return config, FAMILIES[config.model_type]


def _read_tokenizer(source: Source, family: Family, config: Any) -> Any:
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
        raise UnreadableError(
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


def _read_processor(source: Source, family: Family, config: Any) -> Any:
    """Read the image processor, and check that it makes the squares that the model reads."""
    processor = source.read(family.processor)
    if config.model_type == "siglip2":
        return square_processor(processor, config.vision_config.patch_size)
    made = processor.crop_size if processor.do_center_crop else processor.size
    side = config.vision_config.image_size
    if (made["height"], made["width"]) != ((side, side) if isinstance(side, int) else tuple(side)):
        raise ModelError(
            f"{source.name}: its image processor makes images of size {dict(made)}, but the model reads {side} "
            "pixels a side; expected preprocessor_config.json and config.json of one checkpoint."
        )
    return processor
