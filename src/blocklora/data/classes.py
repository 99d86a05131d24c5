"""Class names that look wrong: two that say the same, a typing error, numbers in the place of words."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blocklora.core.errors import DataError
from blocklora.core.words import count, did_you_mean, name_some

__all__ = ["label_notes", "number_notes", "same_words", "words_of"]

_FEW = 4  # a class with this many times fewer images than one of nearly its name may be a typing error
_SHORTEST = 4  # letters; shorter names differ by one letter all the time ("cat", "bat")


def same_words(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of class names that differ in nothing but case, spaces, "_", "-" or the form of their Unicode.

    Args:
        class_names: In label order. The first of several equal ones is paired with each other one.
    """
    first: dict[str, str] = {}
    pairs = []
    for name in class_names:
        earlier = first.setdefault(_plain(name), name)
        if earlier != name:
            pairs.append((earlier, name))
    return pairs


def label_notes(counts: Mapping[str, int]) -> list[str]:
    """Point out labels with few images whose names are nearly those of other labels: they may be typing errors.

    Nearly is: another case, other spaces, or one letter more, less, changed or swapped with the next.

    Args:
        counts: How many images each label has.
    """
    near: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        for part in _without_one(_plain(name)):
            near[part].append(name)
    notes = []
    for name, n in counts.items():
        plain = _plain(name)
        others = {other for part in _without_one(plain) for other in near[part] if n * _FEW <= counts[other]}
        alike = sorted(other for other in others if other != name and _is_near(plain, _plain(other)))
        if alike:
            most = max(alike, key=lambda other: counts[other])
            notes.append(
                f"label {name!r} has {count(n, 'image')} and is close to {most!r} ({count(counts[most], 'image')}): "
                "if it is a typing error, correct it"
            )
    return notes


def number_notes(class_names: Sequence[str]) -> list[str]:
    """Point out class names that are numbers: a prompt such as "a photo of a 3." says nothing of the class."""
    if not class_names or not all(name.strip().isdecimal() for name in class_names):
        return []
    return [
        f"the class names are numbers ({name_some(class_names)}), which tell a model that reads text nothing: give "
        "words with --class-names FILE, or class_names={...} in Python"
    ]


def words_of(labels: Sequence[Any], class_names: Mapping[Any, str] | None) -> tuple[str, ...]:
    """Return the words for labels: those given, else the label's own text.

    Args:
        labels: The distinct labels, in order.
        class_names: Words for some or all labels.

    Raises:
        DataError: A key is no label, or words are blank.
    """
    given = class_names or {}
    for key, words in given.items():
        if key not in labels:
            hint = (
                did_you_mean(key, [label for label in labels if isinstance(label, str)])
                if isinstance(key, str)
                else ""
            )
            raise DataError(
                f"class_names: {key!r} is no label{hint}; the labels are {', '.join(map(repr, labels[:10]))}"
                f"{', ...' if len(labels) > 10 else ''}"
            )
        if not isinstance(words, str) or not words.strip():
            raise DataError(f"class_names: {key!r} has the words {words!r}: expected text that is not blank")
    return tuple(str(given.get(label, label)) for label in labels)


def _plain(name: str) -> str:
    """Write a name without case, with one space for "_", "-" and spaces."""
    text = unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ")
    return " ".join(unicodedata.normalize("NFC", text).split())


def _without_one(name: str) -> Iterator[str]:
    """Yield a name, and what is left of it without any one letter: what two names that are near have in common."""
    yield name
    if len(name) >= _SHORTEST:
        yield from {name[:place] + name[place + 1 :] for place in range(len(name))}


def _is_near(one: str, two: str) -> bool:
    """Whether two names are equal, or one letter more, less, changed or swapped makes them so, which is no digit."""
    if one == two:
        return True
    start = next(
        (n for n, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(two)),
    )
    a, b = one[start:], two[start:]
    edits = [(a[1:], b), (a, b[1:]), (a[1:], b[1:]), (a[1::-1] + a[2:] if len(a) > 1 else a, b)]
    return not any(letter.isdecimal() for letter in a[:1] + b[:1]) and any(x == y for x, y in edits)
