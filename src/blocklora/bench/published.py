"""Averages over the eleven data sets that others published, for a column of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocklora.data import TRAINABLE
from blocklora.report import published_table

__all__ = ["PublishedMeans", "load_published"]

_MODEL = "clip-vit-base-patch16"
_NOTE = "3 seeds, other code, settings chosen as each paper did; the table names no backbone"


@dataclass(frozen=True)
class PublishedMeans:
    """Published averages.

    Attributes:
        source: Where they stand.
        note: What to know of them.
        model: How the name of the model ends that they belong beside.
        data: The data sets that they average over.
        shots: The columns of ``accuracy``.
        accuracy: Percent, by method.
    """

    source: str
    note: str
    model: str
    data: list[str]
    shots: list[int]
    accuracy: dict[str, list[float]]

    def column(self, model: str, data: Sequence[str], shots: int) -> dict[str, float]:
        """Return the figures that may stand beside a mean over these data sets; none if they are not the same."""
        if not model.endswith(self.model) or set(data) != set(self.data) or shots not in self.shots:
            return {}
        return {method: row[self.shots.index(shots)] for method, row in self.accuracy.items()}


def load_published() -> PublishedMeans:
    """Return the figures that come with the package, by our names of methods and data sets."""
    table = published_table("few-shot")
    return PublishedMeans(
        source=table.source,
        note=_NOTE,
        model=_MODEL,
        data=list(TRAINABLE),
        shots=[int(shots) for shots in table.columns],
        accuracy={method.lower().replace(" ", "-"): list(row) for method, row in table.rows.items()},
    )
