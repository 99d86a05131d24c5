"""scikit-learn's face of blocklora: a classifier that is fitted to a handful of labelled images.

Axes: M = images, N = classes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score

from blocklora.classifier import (
    Classifier,
    ClassifierRecord,
    at_once,
    class_sets,
    encode,
    read_classifier,
    write_classifier,
)
from blocklora.classifier.hub import OnHub
from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute, autocast, resolve_device, resolve_precision, usable_precision
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path
from blocklora.core.fingerprint import recorded_versions
from blocklora.data import (
    ImageLike,
    Unreadable,
    check_images,
    dataset_from_lists,
    few_shot,
    labels_to_compare,
    named_sources,
    raise_unreadable,
)
from blocklora.methods import (
    DEFAULT_MODEL,
    DEFAULT_PROMPT,
    FitConfig,
    check_parameters,
    fit_classifier,
    fit_config,
    prepare,
)
from blocklora.training import progress_on_stderr

__all__ = ["FewShotClassifier"]


class _NotFittedYetError(ConfigError, NotFittedError):  # type: ignore[misc]
    """Something was asked of a classifier that is neither fitted nor loaded."""


class FewShotClassifier(OnHub, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A CLIP classifier fitted to a handful of labelled images.

    Args:
        model: A Hugging Face CLIP id, a local folder in the same format, or ``tiny`` (bundled, offline).
        method: A name in ``blocklora.methods.METHODS``, such as ``tip-adapter``; docs/methods.md lists them.
        revision: A branch, tag or commit of the model on the hub.
        shots: Images a class to train on; None takes all.
        seed: Where all randomness comes from: which images, their crops, the adapter's start, dropout.
        prompt: The sentence that a class name stands in, with one ``{}``.
        ensemble: Templates whose mean class features predict, for the methods that read prompts as they are.
        class_names: Words for labels that say nothing (``{0: "cat"}``); scikit-learn's ensembles number the labels.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or a ``torch.device``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        deterministic: Whether only kernels may be used on CUDA that repeat to the last bit; a CPU's always do.
        time_limit: The time for ``fit``, such as "10m", or seconds: as many of the steps as there is time for.
        on_unreadable: An image that cannot be read: ``raise`` an error that names it, or ``skip`` it.
        verbose: Whether to say on stderr how far training is.
        **options: The settings of the method, such as iterations, lr or r; its file says which, and their defaults.

    Attributes:
        classes_: The N labels, in the order of the columns of ``predict_proba``.
        classifier_: The frozen classifier: model, head, temperature.
        temperature_: What the logits are divided by; 1 where there were no validation images to fit it on.
        notes_: What was decided on the way, in sentences.
        unreadable_: Training images that could not be read.
        seconds_: How long the fit took; 0 for a loaded classifier.

    Raises:
        ConfigError: An option is unknown or has a value that cannot work.
    """

    def __init__(
        self,
        *,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        method: str = "block-lora",
        revision: str | None = None,
        shots: int | None = None,
        seed: int = 0,
        prompt: str = DEFAULT_PROMPT,
        ensemble: Sequence[str] = (),
        class_names: Mapping[Any, str] | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        deterministic: bool = False,
        time_limit: str | float | None = None,
        on_unreadable: Literal["raise", "skip"] = "raise",
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.model, self.method, self.revision, self.shots, self.seed = model, method, revision, shots, seed
        self.prompt, self.ensemble, self.class_names = prompt, ensemble, class_names
        self.device, self.precision, self.deterministic = device, precision, deterministic
        self.time_limit, self.on_unreadable, self.verbose = time_limit, on_unreadable, verbose
        self._options = options
        self._config()  # a mistyped option is named here, not after the model was loaded

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters, the method's options that were given among them."""
        return {**super().get_params(deep), **self._options}

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Set parameters, or options of a method. That they fit together is checked by ``fit``.

        Raises:
            ConfigError: It is neither a parameter nor an option of any method.
        """
        check_parameters(params, self._get_param_names(), self._options)
        self._assign(params)
        return self

    def fit(self, images: Iterable[ImageLike], labels: Iterable[Any]) -> FewShotClassifier:
        """Fit to labelled images.

        Args:
            images: Paths, PIL images, arrays or tensors (H, W, 3), (3, H, W) or (H, W), bytes, or open files.
            labels: One an image: text, whole numbers or booleans.

        Raises:
            DataError: The two differ in length, a label is missing, there are fewer than two classes, or a class has
                no readable image.
            ImageError: An image cannot be read, where ``on_unreadable`` is ``raise``.
            ModelError: The model cannot be loaded.
        """
        config, began = self._config(), time.monotonic()
        dataset, classes = dataset_from_lists(images, labels, self.class_names, config.prompt)
        prepared = prepare(config, dataset, few_shot(dataset, config.shots, config.seed))
        if self.on_unreadable == "raise":
            raise_unreadable(prepared.unreadable)
        told, limit = progress_on_stderr() if self.verbose else None, Deadline.of(config.time_limit, began)
        fit = fit_classifier(prepared, config, on_step=told, deadline=limit)
        self.classes_, self.seconds_ = np.asarray(classes), fit.seconds
        self.classifier_: Classifier = fit.classifier
        self.notes_: tuple[str, ...] = (*dataset.notes, *prepared.notes, *fit.result.notes)
        self.unreadable_: tuple[Unreadable, ...] = prepared.unreadable
        self._compute, self._at_once = fit.compute, fit.images_at_once
        known = ("revision", "shots", "seed", "prompt", "ensemble", "time_limit", *self._options)
        self._recorded = {name: value for name, value in config.to_json().items() if name in known}
        return self

    def predict(self, images: Iterable[ImageLike]) -> NDArray[Any]:
        """Return the most probable label of each image (M,)."""
        features = self._features(images)
        with autocast(self._compute.device, "fp32"):  # whatever the caller's own autocast says
            return np.asarray(self.classes_[self.classifier_.top(features, 1)[0][:, 0]])

    def predict_proba(self, images: Iterable[ImageLike]) -> NDArray[np.float64]:
        """Return the probability of every class for each image (M, N); an image that cannot be read is named."""
        features = self._features(images)
        with autocast(self._compute.device, "fp32"):  # whatever the caller's own autocast says
            return self.classifier_.probabilities(features)

    def predict_set(
        self, images: Iterable[ImageLike], coverage: float = 0.9, *, by_class: bool = False
    ) -> list[NDArray[Any]]:
        """Return for each image the labels (n,) that hold the true one so often; docs/confidence.md says the proof.

        Raises:
            RunError: No answers to images that were kept out of training are known.
        """
        features = self._features(images)
        sets = class_sets(self.classifier_, features, coverage, by_class=by_class)
        return [self.classes_[row] for row in sets]

    def score(self, images: Iterable[ImageLike], labels: Iterable[Any], sample_weight: Any = None) -> float:
        """Return the share of images, or of their weights, whose most probable label is right.

        Raises:
            DataError: There are no images, or the labels are of another kind than those of ``fit``.
            ImageError: An image cannot be read.
        """
        listed = check_images(images)
        self._check_fitted()
        given = labels_to_compare(labels, self.classes_, len(listed))
        return float(accuracy_score(given, self.predict(listed), sample_weight=sample_weight))

    @property
    def temperature_(self) -> float:
        """What the logits are divided by before the softmax."""
        return self._check_fitted().temperature

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the classifier to a folder: adapter/, class_features.safetensors, classifier.json.

        Where writing fails, a classifier that stood there is as it was.

        Raises:
            RunError: ``path`` is a file, or the adapter cannot be written.
        """
        fitted, labels = self._check_fitted(), self.classes_.tolist()
        write_classifier(user_path(path), fitted, labels, self._recorded, recorded_versions())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        model: str | os.PathLike[str] | None = None,
    ) -> FewShotClassifier:
        """Read a classifier back, with the parameters of its fit; no training images are needed.

        Args:
            path: What ``save`` or ``blocklora fit`` wrote.
            device: Where to predict.
            precision: ``auto`` is what it was fitted in, where the device can do that.
            model: Where the base model is now, if it has moved.

        Raises:
            ConfigError: There is no such device or precision here.
            RunError: The folder is missing, incomplete or damaged, or its base model has other weights now.
            ModelError: The base model cannot be loaded.
        """
        where, moved = resolve_device(str(device)), None if model is None else os.fspath(model)
        used = resolve_precision(precision, where)
        found, record = read_classifier(user_path(path), device=where, model=moved)
        used = usable_precision(found.precision, where) if precision == "auto" else used
        loaded = cls(device=device, precision=used)
        loaded._take(record, moved)
        loaded.classifier_, loaded.notes_, loaded.unreadable_, loaded.seconds_ = found, (), (), 0.0
        loaded._compute, loaded._at_once = Compute(where, used), at_once(where)
        return loaded

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether it is fitted or loaded."""
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: what goes in are images, not a matrix."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags

    def _check_fitted(self) -> Classifier:
        """Return the classifier that was fitted or loaded, or raise."""
        if not self.__sklearn_is_fitted__():
            raise _NotFittedYetError("not fitted yet; call fit(images, labels) or load(path) first.")
        return self.classifier_

    def _features(self, images: Iterable[ImageLike]) -> torch.Tensor:
        """Return the adapted features of images (M, D), all of which must be readable."""
        found = encode(self._check_fitted(), named_sources(images), self._compute, batch_size=self._at_once)
        raise_unreadable(found.unreadable)
        return found.features

    def _assign(self, params: Mapping[str, Any]) -> None:
        """Set parameters, and put those that are none among the method's options."""
        own = set(self._get_param_names())
        for name in own & set(params):
            setattr(self, name, params[name])
        self._options = {**self._options, **{name: params[name] for name in params if name not in own}}

    def _take(self, record: ClassifierRecord, moved: str | None) -> None:
        """Take over labels and parameters of a saved fit, unchecked: its method may be unknown here."""
        self._assign(record.parameters)
        self.model, self.method, self.ensemble = moved or record.model, record.method, tuple(self.ensemble)
        self.revision = None if moved else self.revision
        words = dict(zip(record.labels, record.class_names, strict=True))
        self.class_names = {label: name for label, name in words.items() if name != str(label)} or None
        self.classes_, self._recorded = np.asarray(record.labels), dict(record.parameters)

    def _config(self) -> FitConfig:
        """Check all parameters."""
        if self.on_unreadable not in ("raise", "skip"):
            raise ConfigError(f"on_unreadable '{self.on_unreadable}': expected raise or skip.")
        if not (self.class_names is None or isinstance(self.class_names, Mapping)):
            raise ConfigError(f"class_names {self.class_names!r}: expected a dictionary of words by label.")
        beside = ("class_names", "on_unreadable", "verbose")
        return fit_config(**{n: value for n, value in self.get_params(deep=False).items() if n not in beside})
