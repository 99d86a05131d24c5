"""What export.json says of an exported classifier, and how its pixel values are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from PIL import Image

from blocklora.classifier import Classifier, Head
from blocklora.classifier.record import Label
from blocklora.clip import crop_size
from blocklora.core.errors import ConfigError
from blocklora.data import LONGEST
from blocklora.export.sets import thresholds_of

__all__ = ["FACTS", "Facts", "Format", "Precision", "Preprocess", "facts_of"]

Format = Literal["lora", "hf", "onnx", "numpy"]
Precision = Literal["fp32", "fp16", "int8"]

FACTS = "export.json"
_VERSION = 1
_PATCHES = "siglip2"  # the type of models that get images as lists of patches
_RESAMPLE: Mapping[int, Literal["bicubic", "bilinear"]] = {
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.BILINEAR: "bilinear",
}


@dataclass(frozen=True)
class Preprocess:
    """How an RGB image becomes pixel values.

    Attributes:
        side: Of the square that the model reads, in pixels.
        resize: ``shortest``: the short side becomes ``side``, and the middle is cut out; ``square``: both sides do.
        resample: Pillow's filter.
        longest: Of long to short side, above which the long side is cut first, where ``resize`` is ``shortest``.
        scale: What a value of 0..255 is multiplied by.
        mean: Of each colour, subtracted.
        std: Of each colour, divided by.
    """

    side: int
    resize: Literal["shortest", "square"]
    resample: Literal["bicubic", "bilinear"]
    longest: int
    scale: float
    mean: Sequence[float]
    std: Sequence[float]

    @classmethod
    def of(cls, processor: Any) -> Preprocess:
        """Return what an image processor of transformers does.

        Raises:
            ConfigError: It does something that no export knows.
        """
        size, resample = dict(processor.size), _RESAMPLE.get(processor.resample)
        side = crop_size(processor)
        shortest = processor.do_center_crop and size.get("shortest_edge") == side
        square = not processor.do_center_crop and (size.get("height"), size.get("width")) == (side, side)
        whole = processor.do_resize and processor.do_rescale and processor.do_normalize
        if not (resample and whole and (shortest or square)):
            raise ConfigError(
                f"the base model's image processor resizes to {size} with filter {processor.resample} and crops to "
                f"{side} pixels in an order that no export writes down; expected its short side and crop to be the "
                "same, resized by bicubic or bilinear interpolation. Use 'blocklora predict'."
            )
        return cls(
            side=side,
            resize="shortest" if shortest else "square",
            resample=resample,
            longest=LONGEST,
            scale=float(processor.rescale_factor),
            mean=[float(value) for value in processor.image_mean],
            std=[float(value) for value in processor.image_std],
        )


@dataclass(frozen=True)
class Facts:
    """What export.json holds; docs/export.md explains it.

    Attributes:
        format: ``lora``, ``hf``, ``onnx`` or ``numpy``.
        method: How the run was fitted.
        model: The base model.
        revision: Its commit on the hub.
        precision: ``fp32``, ``fp16`` or ``int8``.
        labels: One a class.
        class_names: The words for them.
        prompts: The sentences they stood in.
        temperature: What logits are divided by.
        preprocess: How pixel values are made.
        head: Its kind and plain numbers.
        tower: What the numpy tower has to know beside its weights; empty for other formats.
        check: How far the export is from the run.
        sets: Thresholds for sets of classes; empty where nothing is known.
    """

    format: Format
    method: str
    model: str
    revision: str | None
    precision: Precision
    labels: Sequence[Label]
    class_names: Sequence[str]
    prompts: Sequence[str]
    temperature: float
    preprocess: Preprocess
    head: Mapping[str, Any]
    tower: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Mapping[str, Any]:
        """Return the facts, ready for JSON."""
        return {**asdict(self), "version": _VERSION, "blocklora": version("blocklora")}


def facts_of(classifier: Classifier, labels: Sequence[Label], format_: Format, precision: Precision) -> Facts:
    """Gather the facts of a classifier.

    Raises:
        ConfigError: What its base model reads is written down by no export.
    """
    if classifier.base.model.config.model_type.startswith(_PATCHES):
        raise ConfigError(
            f"{classifier.base.model_id}: SigLIP 2 NaFlex reads patches, not images, and no export has a place for "
            "them; use 'blocklora predict', or fit with a SigLIP 2 of one fixed size."
        )
    return Facts(
        format=format_,
        method=classifier.method,
        model=classifier.base.model_id,
        revision=classifier.base.revision,
        precision=precision,
        labels=list(labels),
        class_names=list(classifier.class_names),
        prompts=list(classifier.prompts),
        temperature=classifier.temperature,
        preprocess=Preprocess.of(classifier.base.processor),
        sets=thresholds_of(classifier),
        head=_head_facts(classifier.head),
    )


def _head_facts(head: Head) -> Mapping[str, Any]:
    """Return a head's kind and plain numbers, and those of the heads that a mixture is made of."""
    members = [
        {
            **_head_facts(member.head),
            "weight": member.weight,
            "temperature": member.temperature,
            "base": member.base,
        }
        for member in head.members
    ]
    return {"kind": head.kind, "numbers": dict(head.numbers)} | ({"members": members} if members else {})
