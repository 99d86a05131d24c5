"""The families of dual encoders that transformers has, and in what they differ: one row each.

Axes: N = prompts, L = tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["FAMILIES", "Family"]

_BERT_LAYERS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "out": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}


@dataclass(frozen=True)
class Family:
    """What the code has to know of a family; all else is alike: ``vision_model``, ``text_model``, ``logit_scale``.

    Classes are named, not imported: transformers takes a second to import all of them.

    SigLIP's ``logit_bias`` is left out everywhere: it is the same for every class, and a softmax over the classes does
    not change with it.

    Attributes:
        model: The class of both towers, with ``get_image_features`` and ``get_text_features``.
        processor: The class that turns images into pixel values, without torchvision.
        padding: What the text tower makes of padding behind a prompt. ``inert``: it is causal and read at the
            end token, so nothing. ``read``: it attends to it, and has always seen all its places filled.
            ``masked``: it must be told which tokens are padding.
        image_tower: The class of the image tower alone with its projection; None where transformers has none.
        tokenizer: The class of the tokenizer; ``AutoTokenizer`` where checkpoints of a family differ.
        text_blocks: Where the blocks of the text tower are, inside ``text_model``.
        text_layers: The layers of such a block that are not named as in CLIP, by target (q, k, v, out, fc1, fc2).
    """

    model: str
    processor: str
    padding: Literal["inert", "read", "masked"]
    image_tower: str | None = None
    tokenizer: str = "AutoTokenizer"
    text_blocks: str = "encoder.layers"
    text_layers: Mapping[str, str] = field(default_factory=dict)


FAMILIES = {
    "clip": Family(
        "CLIPModel",
        "CLIPImageProcessorPil",
        "inert",
        image_tower="CLIPVisionModelWithProjection",
        tokenizer="CLIPTokenizer",
    ),
    "siglip": Family("SiglipModel", "SiglipImageProcessorPil", "read"),
    "siglip2": Family("Siglip2Model", "Siglip2ImageProcessorPil", "read", tokenizer="Siglip2Tokenizer"),
    "chinese_clip": Family(
        "ChineseCLIPModel",
        "ChineseCLIPImageProcessorPil",
        "masked",
        text_blocks="encoder.layer",
        text_layers=_BERT_LAYERS,
    ),
    "metaclip_2": Family(
        "MetaClip2Model", "CLIPImageProcessorPil", "inert", image_tower="MetaClip2VisionModelWithProjection"
    ),
}
"""By the ``model_type`` of a checkpoint's config.json."""
