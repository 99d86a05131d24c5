"""What ``check`` can find: its kinds, in the order of their weight, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Finding", "Kind"]

_NAMED = 3


@dataclass(frozen=True)
class Kind:
    """What people call a kind of finding, and what they can do about it."""

    title: str
    advice: str


KINDS: dict[str, Kind] = {
    "unreadable": Kind("Files that cannot be read", "Copy them again, or remove them."),
    "conflict": Kind("One image under two labels", "Keep it under the right one."),
    "leak": Kind("One image in two splits", "Remove it from training: it flatters the test."),
    "label": Kind(
        "Labels that may be wrong", "Look at each, the most doubtful first; move those that are wrong."
    ),
    "exact-duplicate": Kind("Exact copies", "Keep one of each."),
    "near-duplicate": Kind("Nearly the same image", "Keep one of each, or all of them in one split."),
    "blank": Kind("Blank images", "Remove them."),
    "outlier": Kind("Images unlike all others", "Look whether they belong here."),
    "dark": Kind("Very dark images", "Brighten them, or remove them."),
    "blurry": Kind("Blurry images", "Look whether one can still tell what they show."),
    "odd-size": Kind("Very small or very long images", "Crop them, or take better ones."),
    "similar-names": Kind("Class names that say the same", "Merge the classes, or rename one."),
    "confused-classes": Kind(
        "Classes that are mixed up", "If a person cannot tell them apart either, merge them; else add images."
    ),
    "imbalance": Kind("Classes of very different size", "Add images to the small ones."),
    "image-property": Kind(
        "Labels that follow from how the images were made",
        "Take the images of all classes in the same way, or this may be all that is learned.",
    ),
}
"""Every kind, the gravest first."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: A key of ``KINDS``.
        images: Names; for a label the suspect first.
        score: From 0 to 1, larger is worse; to be compared within a kind.
        what: What it is, in a few words, without the images' names.
        actions: What to do with each image: ``keep``, ``remove`` or ``look``; as many as ``images``.
        suggested: The class that the first image looks like, where its label is in doubt.
        labels: The class of each image; as many as ``images``.
        parts: Its split: ``train``, ``val`` or ``test``; as many as ``images``.
    """

    kind: str
    images: tuple[str, ...]
    score: float
    what: str
    actions: tuple[str, ...] = ()
    suggested: str | None = None
    labels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """Name the images, and say what it is."""
        if not self.images or self.kind == "confused-classes":
            return self.what
        if self.kind == "label":
            return f"{self.images[0]}: {self.what}, as {self.images[1]} is"
        return f"{_listed(self.images)}: {self.what}"

    def to_json(self) -> Mapping[str, Any]:
        """Return it as JSON-ready values."""
        return {
            "kind": self.kind,
            "images": list(self.images),
            "score": round(self.score, 6),
            "message": self.message,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Finding:
        """Return the finding of these attributes, lists for tuples; a key of ``KINDS`` is needed.

        Raises:
            KeyError: There is no such kind.
        """
        KINDS[facts["kind"]]
        named: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in facts.items()}
        return cls(**named)


def _listed(names: Sequence[str]) -> str:
    """Name up to three images, and count the rest."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
