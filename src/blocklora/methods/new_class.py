"""A class more for a fitted classifier, without training: by its name, or by features that are kept.

Axes: M = training images, N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import (
    NOTHING_KEPT,
    Classifier,
    Evidence,
    KnownImages,
    encode,
    one_class_more,
    template_features,
)
from blocklora.core.choices import Choice
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.data import Example
from blocklora.methods.config import FitConfig
from blocklora.methods.evidence import kept_images
from blocklora.methods.fitting import fit_classifier, self_judged
from blocklora.methods.frozen import tip_adapter
from blocklora.methods.frozen.features import bank_of, training_features
from blocklora.methods.method import FitResult, Job
from blocklora.methods.prepare import Prepared
from blocklora.methods.table import METHODS, find_method

__all__ = ["check_extends", "with_new_class"]

_CACHE = "tip-adapter"


def check_extends(method: str) -> None:
    """Raise unless a class can be added to a classifier of a method without training.

    Raises:
        ConfigError: It cannot; the message says what to do.
    """
    own = find_method(method)
    if own.open or own.refits or method == _CACHE:
        return
    able = [name for name, other in METHODS.items() if other.open or other.refits or name == _CACHE]
    raise ConfigError(
        f"method '{method}': its classifier knows the classes that it was trained for and takes no other; add --train, "
        "which fits it again to the old images and the new ones, or put the folder into the data and run 'blocklora "
        f"fit --method auto' (methods that need no training: {', '.join(able)})."
    )


def with_new_class(
    prepared: Prepared, config: FitConfig, classifier: Classifier, compute: Compute, size: int
) -> tuple[Classifier, Mapping[str, Choice], int | None]:
    """Return a classifier that knows one class more.

    Methods that know classes by their names get the text feature of the new one, by the run's own prompts and text
    tower; a cache also gets the features of its images. Methods in closed form on features, and the linear probe, are
    fitted again to the features that the classifier keeps of its training images and those of the new ones.

    Args:
        prepared: All N + 1 classes, the new one last. Of the training images only the new ones, which are the last,
            need be there; those before are the ones that the classifier keeps features of.
        config: That of the run.
        classifier: On both towers, on the device.
        compute: Where to compute.
        size: How many images are encoded at a time.

    Returns:
        The classifier, how values were chosen that may have changed, and how many parameters were fitted; None: as many
        as before.

    Raises:
        ConfigError: The method cannot take another class.
        RunError: Features of the training images are needed, and none are kept.
    """
    check_extends(config.method)
    task, known = prepared.task, classifier.evidence.training
    label = len(task.class_names) - 1
    new = [example for example in task.train if example.label == label]
    with compute.training():
        features = _all_features(classifier, known, new, compute, size)
        if find_method(config.method).refits:
            return _refitted(prepared, config, known, features)
        templates = config.ensemble or (config.prompt,)
        if config.method == _CACHE:
            larger = _cached(prepared, config, classifier, new, compute, templates)
        else:
            larger = one_class_more(classifier, prepared.clip, task.class_names[label], templates)
        if known is None:
            return larger, {}, None
        if not task.val:
            evidence = Evidence(training=kept_images(features, task.train))
            return replace(larger, evidence=evidence), {}, None
        result = FitResult(larger, 0, {}, features=features)
        larger, choice = self_judged(larger, task, result, compute, size, NOTHING_KEPT)
        return larger, {"temperature": choice}, None


def _all_features(
    classifier: Classifier, known: KnownImages | None, new: Sequence[Example], compute: Compute, size: int
) -> Tensor:
    """Return unit features (M, D) of the training images, the new ones last."""
    images = [(example.image, example.source) for example in new]
    found = encode(classifier, images, compute, batch_size=size).features
    return found if known is None else torch.cat([F.normalize(known.features.float(), dim=-1), found])


def _refitted(
    prepared: Prepared, config: FitConfig, known: KnownImages | None, features: Tensor
) -> tuple[Classifier, Mapping[str, Choice], int | None]:
    """Fit again, to features that are known."""
    if known is None:
        raise RunError(
            "this run keeps no features of its training images, as runs of earlier versions do not: add --train, which "
            "reads the images."
        )
    bank = bank_of(prepared.clip, prepared.task.train, prepared.task.val, features)
    fit = fit_classifier(prepared, config, bank=bank)
    return fit.classifier, fit.choices, fit.result.trainable_parameters


def _cached(
    prepared: Prepared,
    config: FitConfig,
    classifier: Classifier,
    new: Sequence[Example],
    compute: Compute,
    templates: Sequence[str],
) -> Classifier:
    """Put the new images into the cache of Tip-Adapter, beside the text feature of their class."""
    task, tensors = prepared.task, classifier.head.tensors
    alone = replace(task, train=tuple(new), val=())
    job = Job(alone, prepared.clip, compute, config.seed, config.method)
    added = tip_adapter.cache_of(training_features(job, config.settings), job)
    plain = template_features(prepared.clip.model, prepared.clip, task.class_names[-1:], templates)  # (1, D)
    both = {
        "class_features": torch.cat([tensors["class_features"], plain]),
        "keys": torch.cat([tensors["keys"], added["keys"]]),
        "values": torch.cat([F.pad(tensors["values"], (0, 1)), added["values"]]),
    }
    return classifier.of_other_classes(
        task.class_names,
        task.prompts,
        replace(classifier.head, tensors=both),
        torch.cat([classifier.zero_shot_features, plain]),
    )
