"""How labelled images are cut into parts, so that each is judged by a fit that has not seen it.

Axes: M = training images, V = validation images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from blocklora.core.seeds import Stream, generator
from blocklora.data import Example
from blocklora.methods.method import Task

__all__ = ["Part", "cut", "how_often"]

_MOST_FOLDS = 4
_MANY = 8  # images a class: from here on once is enough
_FEW = 4


@dataclass(frozen=True)
class Part:
    """What one fit sees, and what it is judged by.

    Attributes:
        train: The training images that it is fitted to.
        val: The validation images that it may choose by.
        judged: The places of the others: training images from 0 to M - 1, validation images from M on.
        repetition: The parts of one repetition judge every image once.
        validated: Whether there are validation images, which judge as well.
    """

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    judged: tuple[int, ...]
    repetition: int = 0
    validated: bool = False


def how_often(counts: Sequence[int]) -> tuple[int, int]:
    """Return into how many folds training images are cut, and how many times anew.

    The fewer images a class has, the more chance there is in one cut: from 8 images a class on (the median counts)
    there are 4 folds, once; from 4 on 4 folds, twice; below as many folds as images, three times. 0 folds where no
    class has two images.

    Args:
        counts: How many images each class has.
    """
    if max(counts) < 2:  # an image is held out, and one is left
        return 0, 0
    usual = max(2, int(median(counts)))
    return min(_MOST_FOLDS, usual), 1 if usual >= _MANY else 2 if usual >= _FEW else 3


def cut(task: Task, seed: int, folds: int | None = None) -> list[Part]:
    """Cut the images of a task: each repetition holds every image out once, with the same share of every class.

    The one image of a class that has no other is always fitted to and never judged. Validation images are dealt out in
    the same way: those of a fold are judged beside its training images, and the others may choose what a method
    chooses by validation images. Where no class has two training images the validation images alone judge, in one part.

    Args:
        task: Its training and validation images.
        seed: Where the order of the images comes from.
        folds: How many folds, once; None is what ``how_often`` says.

    Returns:
        The parts, which depend on labels and seed alone; none where nothing can judge.
    """
    labels = [example.label for example in task.train]
    wanted, times = how_often(list(Counter(labels).values()))
    if folds is not None and wanted:
        wanted, times = folds, 1
    n = len(labels)
    if not wanted:
        judged = tuple(range(n, n + len(task.val)))
        return [Part(task.train, (), judged, validated=True)] if judged else []
    parts = []
    for repetition in range(times):
        train = _dealt(labels, wanted, seed, 2 * repetition, alone=None)
        val = _dealt([example.label for example in task.val], wanted, seed, 2 * repetition + 1, alone=0)
        for fold in range(wanted):
            parts.append(
                Part(
                    tuple(example for example, where in zip(task.train, train, strict=True) if where != fold),
                    tuple(example for example, where in zip(task.val, val, strict=True) if where != fold),
                    (
                        *(place for place, where in enumerate(train) if where == fold),
                        *(n + place for place, where in enumerate(val) if where == fold),
                    ),
                    repetition,
                    bool(task.val),
                )
            )
    return parts


def _dealt(labels: Sequence[int], folds: int, seed: int, draw: int, *, alone: int | None) -> list[int | None]:
    """Return the fold that judges each image: the images of a class, shuffled, go to one fold after the other.

    Args:
        labels: Of the images.
        folds: How many.
        seed: Where the order comes from.
        draw: Which order.
        alone: The fold of an image whose class has no other; None is none.
    """
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    found: list[int | None] = [None] * len(labels)
    turn = 0
    for label in sorted(places):
        of_class = places[label]
        if len(of_class) == 1 and alone is None:
            continue
        for place in generator(seed, Stream.FOLDS, draw, label).permutation(of_class).tolist():
            found[place] = turn % folds
            turn += 1
    return found
