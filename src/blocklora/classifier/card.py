"""A model card: README.md beside a classifier that goes elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache

from blocklora.classifier.record import ClassifierRecord
from blocklora.clip import TINY
from blocklora.core.words import count

__all__ = ["CARD", "model_card"]

CARD = "README.md"
_TINY_CARD = Path(__file__).parents[1] / "assets" / "tiny" / CARD
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SHOWN = 100  # classes that a card names
_OPENAI = "openai/clip-"

_LIMITS = """It always answers with one of its classes, also for an image that shows none of them. It was made from a
handful of images: what they have in common by chance (background, light, camera) it may have learned as well. It
inherits the biases of its base model, which was trained on images and texts from the web. Measure it on images
of your own before you rely on it, and do not use it to decide about people."""


def model_card(
    record: ClassifierRecord,
    *,
    use: str,
    library: str,
    images_a_class: Mapping[int, int] | None = None,
    sections: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the text of a model card.

    Args:
        record: What classifier.json says.
        use: How to use it, in Markdown.
        library: What loads it, as the hub names libraries.
        images_a_class: How many images each class was learned from, by its index, where that is known.
        sections: More headings with their text, such as what was measured.
    """
    on_hub = record.model if _is_on_hub(record.model) else None
    licence, words = _licence(record.model, record.revision)
    data = ModelCardData(
        base_model=on_hub,
        license=licence,
        library_name=library,
        pipeline_tag="image-classification",
        tags=["clip", "few-shot", "blocklora", record.method],
    )
    own = f"{shown_model(record.model)}{f' at commit {record.revision}' if record.revision else ''}"
    parts = [
        ("", f"Made by blocklora with method {record.method}. Base model: {own}."),
        ("Use", use),
        ("Classes", _classes(record, images_a_class)),
        *sections,
        ("Licence", words),
        ("Limits", _LIMITS),
    ]
    body = "\n\n".join(f"## {heading}\n\n{text}" if heading else text for heading, text in parts)
    title = f"An image classifier of {count(len(record.class_names), 'class')}"
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{body}\n"))


def shown_model(model: str) -> str:
    """Return what a card calls a base model: of a folder its name alone, so that the card tells nothing of the disk."""
    if model == TINY:
        return "the tiny CLIP that comes with blocklora"
    return model if _is_on_hub(model) else f"the local folder '{Path(model).name}'"


def _is_on_hub(model: str) -> bool:
    return bool(_ON_HUB.fullmatch(model)) and not Path(model).is_dir()


def _classes(record: ClassifierRecord, images: Mapping[int, int] | None) -> str:
    """Return a table of classes."""
    rows = ["| label | name | prompt |" + (" training images |" if images else "")]
    rows.append("|---|---|---|" + ("---|" if images else ""))
    named = zip(record.labels, record.class_names, record.prompts, strict=True)
    for index, row in enumerate(named):
        if index == _SHOWN:
            rows.append(f"\n... and {count(len(record.labels) - _SHOWN, 'more class')}.")
            break
        cells = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        cells += [str(images.get(index, 0))] if images else []
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _licence(model: str, revision: str | None) -> tuple[str | None, str]:
    """Return the licence of a base model, as the hub writes it, and a sentence; the hub is not asked."""
    place = _TINY_CARD if model == TINY else Path(model) / CARD
    cached = try_to_load_from_cache(model, CARD, revision=revision) if _is_on_hub(model) else None
    place = Path(cached) if isinstance(cached, str) else place
    found = None
    if place.is_file():
        try:
            found = ModelCard.load(place, ignore_metadata_errors=True).data.license
        except (OSError, ValueError):  # a card that nobody can read
            found = None
    if found:
        return str(found), f"The base model is under the licence {found}; this classifier is derived from it."
    if model.startswith(_OPENAI):
        return "mit", (
            "OpenAI published CLIP under the MIT licence; its model card calls any deployed use out of scope."
        )
    return None, "The base model's files here do not state its licence: read it where the model comes from."
