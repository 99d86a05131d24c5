"""The test part of a data set, out of reach until training has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NoReturn

from blocklora.core.errors import SealedTestError
from blocklora.data.types import Dataset, Example, FewShotSplit

__all__ = ["SealedTest", "seal"]


class SealedTest(Sequence[Example]):
    """Test images behind a seal: whatever is asked of it raises, but for ``open_after_training``.

    Args:
        examples: The test images.
    """

    __slots__ = ("__examples",)

    def __init__(self, examples: Sequence[Example]) -> None:
        self.__examples = tuple(examples)

    def open_after_training(self) -> tuple[Example, ...]:
        """Return the test images. Only ``run.fit`` calls this, in one place; a test checks it."""
        return self.__examples

    def __len__(self) -> int:
        _refuse()

    def __getitem__(self, index: object) -> NoReturn:
        _refuse()

    def __iter__(self) -> Iterator[Example]:
        _refuse()

    def __contains__(self, item: object) -> bool:
        _refuse()

    def __repr__(self) -> str:
        return "SealedTest(...)"


def seal(dataset: Dataset, split: FewShotSplit) -> tuple[Dataset, FewShotSplit, SealedTest]:
    """Put the test part of a data set and of its few-shot split behind one seal.

    Returns:
        The data set with nothing but what the run may see: the images of the split, and the seal in the place of the
        test images; the split with the seal; and the seal itself.
    """
    sealed = SealedTest(split.test)
    seen = replace(dataset, train=split.train, val=split.val, test=sealed)
    return seen, replace(split, test=sealed), sealed


def _refuse() -> NoReturn:
    raise SealedTestError(
        "the test images were touched before training had ended; choose settings and steps by validation images"
    )
