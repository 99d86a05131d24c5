"""The second fit: what was measured, fitted to all images with what was chosen, for the classifier that is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blocklora.core.deadline import Deadline
from blocklora.data import Example, FewShotSplit
from blocklora.methods import Fit, FitConfig, Prepared
from blocklora.report import RunMetrics, Shipped
from blocklora.run.fitting import Fitting
from blocklora.training import Checkpoint

__all__ = ["fit_to_all", "kept_back"]

_MOST = 0.5  # of the time, for the second fit
_SEARCH, _EACH = (
    0.15,
    0.05,
)  # of the time of auto, whose first fit is a search; and for each image a training image


def kept_back(deadline: Deadline | None, config: FitConfig, drawn: FewShotSplit) -> Deadline | None:
    """Return the deadline of the first fit, which leaves time for the second.

    A number of steps takes as long whatever the images; epochs and augmented passes take longer the more there are.

    Args:
        deadline: Of the run; None: it takes as long as it takes.
        config: What is fitted.
        drawn: The images of the run.
    """
    if deadline is None:
        return None
    more = (len(drawn.train) + len(drawn.val) + len(drawn.test)) / len(drawn.train)
    share = _MOST if hasattr(config.settings, "iterations") else more / (1 + more)
    if config.method == "auto":
        share = min(_MOST, _SEARCH + _EACH * more)
    return deadline.reserve(share * deadline.left())


def fit_to_all(
    fitting: Fitting,
    fit: Fit,
    prepared: Prepared,
    test: Sequence[Example],
    metrics: RunMetrics,
    checkpoint: Checkpoint,
) -> tuple[Fit, RunMetrics]:
    """Fit what was measured to training, validation and test images together.

    Args:
        fitting: How fits are done.
        fit: What was measured.
        prepared: What it was fitted to.
        test: The images that it was measured on; some may be training images as well, those of folds.
        metrics: Of the measurement.
        checkpoint: Of this second fit.

    Returns:
        The second fit, and the metrics with what is shipped.
    """
    unreadable = {bad.image for bad in metrics.unreadable}
    known = (*prepared.task.train, *prepared.task.val)
    before = {id(example) for example in known}
    new = [one for one in test if id(one) not in before and one.image not in unreadable]
    images = (*known, *new)
    fitting.part(f"what was chosen, fitted to all {len(images):,} images")
    again = fitting.fit_again(fit, prepared, images, checkpoint)
    return again, replace(metrics, shipped=Shipped(len(images), again.seconds))
