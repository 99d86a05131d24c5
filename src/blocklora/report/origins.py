"""Where a run's figures and its classifier come from, where that is not one fit and a test part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blocklora.metrics import Evaluation, wilson_interval
from blocklora.report.listed import Listed

__all__ = ["AddedClass", "CrossValidation", "HowAdded", "Shipped"]

HowAdded = Literal["name", "features", "training"]


@dataclass(frozen=True)
class AddedClass(Listed):
    """The class that a run has and the run that it was made of has not. Intervals are 95%, Wilson.

    Attributes:
        name: Of the class.
        run: The RUN folder that it was added to.
        how: ``training`` went on; or without any the class was added by its ``name``, or by ``features`` of its images.
        n_images: Its images that the run has beside those held out; by its name alone nothing is learned from them.
        before: The old run's accuracy on its test images.
        before_interval: Of it.
        after: The accuracy on the test images of the same classes, among all classes.
        after_interval: Of it.
        n_test: How many test images these are.
        own: The accuracy on the held-out images of the new class; None where there are none.
        own_interval: Of it.
        n_held_out: How many there are.
    """

    name: str
    run: str
    how: HowAdded
    n_images: int
    before: float
    before_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    n_test: int
    own: float | None = None
    own_interval: tuple[float, float] | None = None
    n_held_out: int = 0

    @classmethod
    def of(
        cls, name: str, run: str, how: HowAdded, n_images: int, old: Evaluation, new: Evaluation
    ) -> AddedClass:
        """Compare what two runs say of the old classes' test images; the new class is the last one of the new run."""
        *others, own = new.per_class
        n_test = sum(row.n_test for row in others)
        n_correct = sum(n for label, predicted, n in new.confusion_counts if label == predicted < len(others))
        return cls(
            name,
            run,
            how,
            n_images,
            old.accuracy,
            old.accuracy_interval,
            n_correct / n_test,
            wilson_interval(n_correct, n_test),
            n_test,
            own.accuracy,
            own.accuracy_interval,
            own.n_test,
        )


@dataclass(frozen=True)
class CrossValidation(Listed):
    """How cross-validation went, fold by fold.

    Attributes:
        n_correct: Correct answers of each fold.
        n_judged: Images that each judged.
        n_fitted: Images that each was fitted to.
        seconds: Of all folds.
        kept: What the fit of each fold kept, of a method that chooses among several; else empty.
        interval_method: How the interval of the accuracy was computed.
    """

    n_correct: tuple[int, ...]
    n_judged: tuple[int, ...]
    n_fitted: tuple[int, ...]
    seconds: float
    kept: tuple[str, ...] = ()
    interval_method: str = (
        "the wider of Wilson's interval of all answers and Nadeau and Bengio's over the folds"
    )


@dataclass(frozen=True)
class Shipped:
    """The classifier of a RUN folder, where it was fitted anew after the measurement, and was not measured itself.

    Attributes:
        n_images: Images that it was fitted to, test images among them.
        seconds: How long that took.
    """

    n_images: int
    seconds: float
