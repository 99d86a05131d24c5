"""Small pieces of messages: numbers with their nouns, lists of names, and what a mistyped word may have meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = ["count", "did_you_mean", "name_some", "printable"]

_NAMES = 5
_CONTROL = {
    "Cc",
    "Cs",
    "Zl",
    "Zp",
}  # Unicode categories: control characters, lone surrogates, line separators


def count(n: int, one: str, many: str = "") -> str:
    """Write a number with its noun: "1 image", "2 images", "2 classes".

    Args:
        n: How many.
        one: The noun for one.
        many: The noun for several; by default with "s", or "es" after an "s".
    """
    plural = many or one + ("es" if one.endswith("s") else "s")
    return f"{n} {one if n == 1 else plural}"


def name_some(names: Iterable[str]) -> str:
    """Quote up to five names, and count the rest: "'a', 'b' and 3 more"."""
    listed = list(names)
    more = len(listed) - _NAMES
    return ", ".join(repr(name) for name in listed[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the known word that comes nearest, or "" where none comes near."""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def printable(name: str) -> str:
    r"""Write a file's name so that every output takes it: control characters and bytes that are no UTF-8 as escapes.

    Examples:
        >>> printable("caf\udce9.png")
        'caf\\udce9.png'
    """
    if name.isprintable():
        return name
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in _CONTROL
        else letter
        for letter in name
    )
