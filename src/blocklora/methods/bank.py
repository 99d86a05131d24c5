"""Features of images that are computed once, and then read for any part of the images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from blocklora.data import Example

__all__ = ["FeatureBank"]


class FeatureBank:
    """Features in memory of some groups of images, for fits to parts of them. V passes, M images, D wide.

    A feature of a part is that of the whole group: what an image's crops are like follows from its place in the group.

    Args:
        groups: The images; a part must be of one group, the very same objects.
    """

    def __init__(self, *groups: Sequence[Example]) -> None:
        self._groups = [tuple(group) for group in groups]
        self._places = [{id(example): place for place, example in enumerate(group)} for group in self._groups]
        self._kept: dict[tuple[int, Hashable], Tensor] = {}

    def keep(self, number: int, key: Hashable, features: Tensor) -> None:
        """Take features (V, M, D) of a whole group that are known already."""
        self._kept[number, key] = features

    def of(
        self,
        examples: Sequence[Example],
        key: Hashable,
        passes: int,
        compute: Callable[[Sequence[Example]], Tensor],
    ) -> Tensor | None:
        """Return features (V, M, D) of a part of a group; None where the images are of none.

        Args:
            examples: M images.
            key: What the features depend on, beside image and pass.
            passes: V; more passes that were computed before are left out.
            compute: Computes the features of a whole group, in this number of passes.
        """
        for number, (group, places) in enumerate(zip(self._groups, self._places, strict=True)):
            rows = [places.get(id(example)) for example in examples]
            if any(row is None for row in rows):
                continue
            kept = self._kept.get((number, key))
            if kept is None or len(kept) < passes:
                kept = self._kept[number, key] = compute(group)
            return kept[:passes, rows]
        return None
