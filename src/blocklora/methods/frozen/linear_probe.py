"""A linear probe: logistic regression on frozen image features (Radford et al., 2021, section 3.2).

Recipe: scikit-learn's L-BFGS with an L2 penalty, C swept over 1e-6 .. 1e6 and chosen on validation pictures.
Deviations: 25 values of C instead of 96; features are unit vectors, so without validation pictures C is 31.6,
which is CLIP's published 0.316 for features whose norm is about 10.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from blocklora.classifier.heads import Head
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.methods.frozen.on_features import accuracy, labels_of, picture_features, written_classes
from blocklora.methods.settings import need_positive, need_whole
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit"]

_SWEEP = np.logspace(-6, 6, 25)
_WITHOUT_VALIDATION = 31.6


@dataclass(frozen=True)
class Settings:
    """How to fit the probe.

    Attributes:
        c: The inverse strength of the penalty; None chooses it on validation pictures.
        max_iterations: Of L-BFGS.
    """

    c: float | None = None
    max_iterations: int = 1000

    def __post_init__(self) -> None:
        """Check every value."""
        need_positive(self, "c")
        need_whole(self, "max_iterations")


def fit(
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit the probe; see ``Method``."""
    features = picture_features(task.train, clip, compute)[0].double().numpy()  # (M, D)
    labels = labels_of(task.train).numpy()

    def probe(c: float) -> Head:
        return _probe(features, labels, c, options.max_iterations)

    if options.c is not None:
        c, why = options.c, "given beforehand"
    elif task.val:
        val, truth = picture_features(task.val, clip, compute)[0], labels_of(task.val)
        scores = [accuracy(probe(c).logits(val), truth) for c in _SWEEP]
        best = int(np.argmax(scores))  # the first of equals: the strongest penalty
        c = float(_SWEEP[best])
        why = f"the best of {len(_SWEEP)} on {len(task.val)} validation pictures ({scores[best]:.1%})"
    else:
        c, why = _WITHOUT_VALIDATION, "fixed: there are no validation pictures to choose it by"
    head = probe(c)
    return Fitted(
        model=clip.model,
        class_features=written_classes(task, clip),
        trainable_parameters=sum(tensor.numel() for tensor in head.tensors.values()),
        training=None,
        selection={"C": f"{c:.4g}, {why}", "kept step": "where L-BFGS stopped"},
        head=head,
    )


def _probe(features: NDArray[np.float64], labels: NDArray[np.int64], c: float, iterations: int) -> Head:
    """Return the linear head that logistic regression on features (M, D) leads to."""
    model = LogisticRegression(C=c, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a huge C on separable features has no optimum
        model.fit(features, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's logit, the first one's being 0
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    tensors = {"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias).float()}
    return Head("linear", tensors)
