"""What to do next: at most three suggestions, each made from the figures of the run."""

from __future__ import annotations

from collections import Counter

from blocklora.report.notes import loss_trend
from blocklora.report.run_metrics import RunMetrics
from blocklora.report.words import count, join, percent, percent_range, verdict

__all__ = ["suggestions"]

_MOST = 3
_NAMES = 3
_SURE = 0.9  # a mistake of a higher probability may be a wrong label
_BOTH_WAYS = 0.2  # of the images of two classes that are confused: they may be one class
_WIDE = 0.2  # of the accuracy's interval
_BEHIND = 0.1  # of a class's recall behind the mean


def suggestions(metrics: RunMetrics) -> list[str]:
    """Return what would help most, the most pressing first; nothing where all is well."""
    found = (
        _try_again(metrics),
        _test_images(metrics),
        _labels(metrics),
        _same_class(metrics),
        _weak_class(metrics),
        _other_method(metrics),
        _more_test_images(metrics),
    )
    return [text for text in found if text][:_MOST]


def _try_again(metrics: RunMetrics) -> str | None:
    """Training went wrong."""
    trend = loss_trend(metrics.history)
    if trend == "diverged":
        return "Fit again with a lower learning rate (--lr): the training loss grew."
    found = verdict(metrics)
    if trend == "flat" and (found is None or found.kind != "better"):
        return (
            "Fit again with a higher learning rate (--lr) or more steps (--iterations): the loss stayed flat."
        )
    return None


def _test_images(metrics: RunMetrics) -> str | None:
    """Classes that nobody can judge."""
    names = [row.class_name for row in metrics.evaluation.per_class if not row.n_test]
    if not names:
        return None
    more = [f"{len(names) - _NAMES:,} more classes"] if len(names) > _NAMES else []
    return f"Add test images of {join([*names[:_NAMES], *more])}: without them nobody knows how good it is there."


def _labels(metrics: RunMetrics) -> str | None:
    """Mistakes that the classifier is very sure of."""
    sure = [mistake for mistake in metrics.mistakes if mistake.top and mistake.top[0][1] >= _SURE]
    if not sure:
        return None
    return (
        f"Look at the labels of {count(len(sure), 'test image')}: the classifier is at least {percent(_SURE, 0)} sure "
        "of another class. They are the first of the most confident mistakes."
    )


def _same_class(metrics: RunMetrics) -> str | None:
    """Two classes that are taken for each other both ways."""
    classes = metrics.evaluation.per_class
    counts: Counter[tuple[int, int]] = Counter()
    ways: Counter[tuple[int, int]] = Counter()
    for label, predicted, n in metrics.evaluation.confusion_counts:
        if label != predicted:
            pair = (min(label, predicted), max(label, predicted))
            counts[pair] += n
            ways[pair] += 1
    both = [(n, pair) for pair, n in counts.items() if ways[pair] == 2]
    if not both:
        return None
    n, (one, other) = max(both)
    of = classes[one].n_test + classes[other].n_test
    if n < _BOTH_WAYS * of:
        return None
    names = join([classes[one].class_name, classes[other].class_name])
    return (
        f"{names} are taken for each other in {n:,} of {count(of, 'image')}: merge them if they are one class to you, "
        "or add training images that show the difference."
    )


def _weak_class(metrics: RunMetrics) -> str | None:
    """The class of the lowest recall."""
    tested = [row for row in metrics.evaluation.per_class if row.accuracy is not None]
    worst = min(tested, key=lambda row: row.accuracy or 0.0, default=None)
    mean = metrics.evaluation.mean_class_accuracy
    if worst is None or worst.accuracy is None or worst.accuracy > mean - _BEHIND:
        return None
    return (
        f"Add training images of {worst.class_name}: {percent(worst.accuracy, 0)} of its test images are recognised "
        f"({percent_range(worst.accuracy_interval, 0)} in general), {percent(mean, 0)} in the mean over classes."
    )


def _other_method(metrics: RunMetrics) -> str | None:
    """No clear gain over zero-shot."""
    found = verdict(metrics)
    if (
        found is None
        or found.kind == "better"
        or metrics.evaluation.accuracy == 1
        or metrics.method == "auto"
    ):
        return None
    return "Let many methods be compared on your images (--method auto): this one shows no clear gain over zero-shot."


def _more_test_images(metrics: RunMetrics) -> str | None:
    """Too few test images to say how good it is."""
    low, high = metrics.evaluation.accuracy_interval
    if high - low < _WIDE:
        return None
    return (
        f"Add test images: {count(metrics.evaluation.n_test, 'image')} leave the accuracy between {percent(low, 0)} "
        f"and {percent(high, 0)}."
    )
