"""The columns of a table of answers: a row is a function of an answer, and a column is one line here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from blocklora.core.words import printable
from blocklora.data import Unreadable
from blocklora.run.predict import Asked, Prediction

__all__ = ["ONE_LABEL", "UNKNOWN", "Cell", "Columns", "Row"]

Cell = str | float | None
Row = dict[str, Cell]
"""The cells of an image by the names of their columns."""

ONE_LABEL = Asked(top_k=1)
"""What a table holds where nothing else is asked for."""

UNKNOWN = "unknown"
"""The label of an image that looks like none of the classes, where that was asked for."""

_IMAGE, _REASON = "image", "reason"


@dataclass(frozen=True)
class _Column:
    """A column of what is said of an image that could be read."""

    name: str
    kind: Literal["text", "number"]
    value: Callable[[Prediction], Cell]


class Columns:
    """The columns of one table.

    Args:
        asked: What is asked for of each image.
        n_classes: Of the run; a row has no more labels.
        abstain_below: The probability below which a row has no label.
        moved: The name of the column that says where a file went; None where none goes anywhere.
    """

    def __init__(
        self, asked: Asked, n_classes: int, *, abstain_below: float = 0.0, moved: str | None = None
    ) -> None:
        self._below, self.moved = abstain_below, moved
        self._answers = [
            _Column("label", "text", self._label),
            _Column("probability", "number", partial(_probability, rank=1)),
        ]
        for rank in range(2, min(asked.top_k, n_classes) + 1):
            self._answers += [
                _Column(f"label_{rank}", "text", partial(_label, rank=rank)),
                _Column(f"probability_{rank}", "number", partial(_probability, rank=rank)),
            ]
        if asked.coverage is not None:
            self._answers.append(_Column("set", "text", _set))
        if asked.false_alarms is not None:
            self._answers.append(_Column("chance_known", "number", lambda answer: answer.chance_known))

    @property
    def kinds(self) -> Mapping[str, Literal["text", "number"]]:
        """The names of all columns, in their order, and what each holds."""
        last: dict[str, Literal["text", "number"]] = {_REASON: "text"}
        if self.moved:
            last[self.moved] = "text"
        return {_IMAGE: "text", **{column.name: column.kind for column in self._answers}, **last}

    def row(self, answer: Prediction | Unreadable) -> Row:
        """Return the row of an answer; where its file goes is not known yet."""
        row: Row = dict.fromkeys(self.kinds)
        row[_IMAGE] = answer.image
        if isinstance(answer, Unreadable):
            row[_REASON] = printable(answer.reason)
            return row
        row |= {column.name: column.value(answer) for column in self._answers}
        if row["label"] is None:
            row[_REASON] = f"{_label(answer, rank=1)} is below {self._below:g}"
        return row

    def _label(self, answer: Prediction) -> Cell:
        """Return the most probable label, if it is probable enough; ``unknown`` where the image looks like no class."""
        if answer.unknown:
            return UNKNOWN
        return _label(answer, rank=1) if answer.top[0][1] >= self._below else None


def _label(answer: Prediction, *, rank: int) -> Cell:
    return printable(answer.top[rank - 1][0])


def _probability(answer: Prediction, *, rank: int) -> Cell:
    return answer.top[rank - 1][1]


def _set(answer: Prediction) -> Cell:
    """Return the labels of the set as a JSON list, since a label may hold any sign."""
    return json.dumps([printable(label) for label in answer.set or ()], ensure_ascii=False)
