"""What was measured and what is shipped, where that is not one thing; what a class more has changed: sentences."""

from __future__ import annotations

from blocklora.core.words import count
from blocklora.report.origins import AddedClass
from blocklora.report.run_metrics import RunMetrics
from blocklora.report.words import duration, percent, percent_range, short_names

__all__ = ["added_sentences", "folds_sentence", "shipped_sentence", "what_is_shipped"]


def what_is_shipped(metrics: RunMetrics) -> list[str]:
    """Return the sentences below that have something to say."""
    return [text for text in (folds_sentence(metrics), shipped_sentence(metrics)) if text]


def folds_sentence(metrics: RunMetrics) -> str:
    """Say how cross-validation came to its figures; empty where there was none."""
    found = metrics.cross_validation
    if found is None:
        return ""
    pairs = zip(found.n_correct, found.n_judged, strict=True)
    accuracies = ", ".join(percent(right / n) for right, n in pairs)
    kept = f" They kept {'; '.join(found.kept)}." if found.kept else ""
    few, many = min(found.n_fitted), max(found.n_fitted)
    images = count(many, "image") if few == many else f"{few:,} to {count(many, 'image')}"
    n_all = metrics.shipped.n_images if metrics.shipped else metrics.n_train or 0
    return (
        f"Measured by {len(found.n_judged)}-fold cross-validation: {len(found.n_judged)} fits, each to {images}, "
        f"answered for the images that they had not seen. Accuracy fold by fold: {accuracies}.{kept} The fits share "
        "most of their images, so no interval is exact; that of the accuracy is the wider of Wilson's, which takes the "
        "answers as independent, and the corrected one of Nadeau and Bengio, which comes from the differences between "
        f"the folds. The classifier in this folder was fitted to all {count(n_all, 'image')} and was not measured "
        "itself."
    )


def shipped_sentence(metrics: RunMetrics) -> str:
    """Say that the classifier of the folder is not the one that was measured; empty where it is."""
    shipped = metrics.shipped
    if shipped is None:
        return ""
    images, took = count(shipped.n_images, "image"), duration(shipped.seconds)
    if metrics.cross_validation:
        own = (
            f"It was first fitted to {count(metrics.n_train or 0, 'training image')}, and then once more, with what "
            f"was chosen, to these and {count(metrics.n_val or 0, 'validation image')} ({took})."
        )
    else:
        own = (
            f"All figures here are of a classifier fitted to {count(metrics.n_train or 0, 'training image')}. The one "
            f"in this folder was fitted afterwards, with what was chosen, to all {images}, test images included "
            f"({took}), and was not measured: no image is left for it."
        )
    return (
        f"{own} Its temperature is that of the first fit. It promises neither sets of classes nor to know unknown "
        "images, which would take images that it has not learned from."
    )


def added_sentences(added: AddedClass) -> list[str]:
    """Where a run with a class more came from, and what became of the classes that were there."""
    images = count(added.n_images, "image")
    how = {
        "name": "by its name, without training",
        "features": f"by the features of {images}, without training",
        "training": f"by training on {images} of it and those of the other classes",
    }[added.how]
    own = (
        f"Of {count(added.n_held_out, 'held-out image')} of {added.name}, {percent(added.own)} are recognised (95% "
        f"interval {percent_range(added.own_interval)})."
        if added.n_held_out
        else f"No image of {added.name} was held out, so nobody knows how well it is recognised."
    )
    return [
        f"The class {added.name} was added to {short_names([added.run])[added.run]} {how}.",
        f"On the {count(added.n_test, 'test image')} of the other classes the accuracy was {percent(added.before)} "
        f"({percent_range(added.before_interval)}) before, and is {percent(added.after)} "
        f"({percent_range(added.after_interval)}) now.",
        own,
    ]
