"""What a user keeps: class names, prompts, an adapter and a temperature, behind scikit-learn's verbs.

Axes: M = pictures, N = classes, D = the width of CLIP's shared space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blocklora.classifier.encode import base_model, encode
from blocklora.classifier.heads import cosine_head
from blocklora.classifier.pictures import Encoded
from blocklora.classifier.save import Saved, read_classifier, write_classifier
from blocklora.classifier.store import seconds_spared
from blocklora.classifier.text_side import other_classes, template_features
from blocklora.clip import Clip, class_features
from blocklora.core.device import Compute, resolve_device, resolve_precision
from blocklora.core.errors import ConfigError, DataError, ImageError
from blocklora.data import (
    Dataset,
    Example,
    FewShotSplit,
    Picture,
    Source,
    Unreadable,
    few_shot,
    name_of,
    source_of,
)
from blocklora.methods import ENSEMBLE_METHODS, METHODS, WRITTEN_METHODS, Fitted, Task, make_settings
from blocklora.methods.prepare import Prepared, prepare
from blocklora.metrics import fit_temperature
from blocklora.training import Checkpoint, OnStep

__all__ = ["DEFAULT_MODEL", "DEFAULT_PROMPT", "FewShotClassifier", "Prepared"]

DEFAULT_MODEL = "openai/clip-vit-base-patch16"
DEFAULT_PROMPT = "a photo of a {}."
_AT_ONCE = {"cuda": 256, "cpu": 64}  # pictures that go through the image tower at a time


class FewShotClassifier:
    """A CLIP classifier fitted to a handful of labelled pictures.

    Args:
        model: A Hugging Face CLIP id, a local folder in the same format, or ``tiny`` (bundled, offline).
        method: A name in ``blocklora.methods.METHODS``, such as ``tip-adapter``; docs/methods.md lists them.
        shots: Pictures a class to train on; None takes all.
        seed: Where all randomness comes from: which pictures, their crops, the adapter's start, dropout.
        prompt: The sentence that a class name stands in, with one ``{}``.
        ensemble: Templates whose mean class features predict, in the place of those of ``prompt``; training uses
            ``prompt`` alone. For the methods in ``ENSEMBLE_METHODS`` and ``WRITTEN_METHODS`` of ``blocklora.methods``;
            the latter build on the mean class features while they train.
        class_names: Words for the labels, where a label itself says nothing (``{0: "cat", 1: "dog"}``).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        **options: The settings of the method: iterations, batch_size, lr, r, ... for the adapters; each method's
            file says which it has, and their published defaults.

    Attributes:
        classes_: The N labels, in the order of the columns of ``predict_proba``.
        temperature_: What the logits are divided by; 1 where there were no pictures left to fit it on.
        notes_: What was decided on the way, in sentences.
        unreadable_: Training and validation pictures that could not be read.
        seconds_: How long the fit took, features included, also those that a bench had computed before.

    Raises:
        ConfigError: An option is unknown or has a value that cannot work.
    """

    def __init__(
        self,
        *,
        model: str = DEFAULT_MODEL,
        method: str = "block-lora",
        shots: int | None = None,
        seed: int = 0,
        prompt: str = DEFAULT_PROMPT,
        ensemble: Sequence[str] = (),
        class_names: Mapping[Any, str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        **options: Any,
    ) -> None:
        if method not in METHODS:
            raise ConfigError(f"method '{method}': expected one of {', '.join(METHODS)}.")
        self.model, self.method, self.shots, self.seed = model, method, shots, seed
        if ensemble and method not in ENSEMBLE_METHODS + WRITTEN_METHODS:
            raise ConfigError(
                f"an ensemble of prompts needs a method that reads prompts as they are, not {method}: expected one "
                f"of {', '.join(ENSEMBLE_METHODS + WRITTEN_METHODS)}."
            )
        self.prompt, self.ensemble, self.class_names = prompt, tuple(ensemble), class_names
        self.options: Any = make_settings(method, METHODS[method], options)
        if method == "block-lora" and self.options.r % self.options.n_blocks:
            raise ConfigError(
                f"n_blocks '{self.options.n_blocks}': expected a divisor of r = {self.options.r}."
            )
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.notes_: tuple[str, ...] = ()
        self.unreadable_: tuple[Unreadable, ...] = ()
        self.seconds_ = 0.0
        self._saved: Saved | None = None
        self._at_once = _AT_ONCE["cuda" if self.device.type == "cuda" else "cpu"]

    def fit(self, images: Sequence[Picture], labels: Sequence[Any]) -> FewShotClassifier:
        """Fit to labelled pictures.

        Args:
            images: Paths, PIL pictures, or uint8 arrays (H, W, 3) or (H, W).
            labels: One a picture: strings, or numbers with ``class_names``.

        Raises:
            DataError: The two differ in length, there are fewer than two classes, or a class has no
                readable picture.
            ModelError: The model cannot be loaded.
        """
        _check_lengths(images, labels)
        classes = sorted(set(np.asarray(labels).tolist()))
        names = tuple(str((self.class_names or {}).get(label, label)) for label in classes)
        index = {label: place for place, label in enumerate(classes)}
        train = tuple(
            Example(name_of(image, place), index[label], source_of(image))
            for place, (image, label) in enumerate(zip(images, np.asarray(labels).tolist(), strict=True))
        )
        dataset = Dataset(name="images", class_names=names, train=train, val=(), test=(), prompt=self.prompt)
        self.train(self.prepare(dataset, few_shot(dataset, self.shots, self.seed)))
        self.classes_ = np.asarray(classes)
        return self

    def prepare(self, dataset: Dataset, split: FewShotSplit) -> Prepared:
        """Read the pictures and load the model: everything that can be wrong before training is found here.

        Raises:
            ConfigError: The classifier was loaded.
            DataError: There are fewer than two classes, or a class has no readable training picture.
            ModelError: The model cannot be loaded.
        """
        if self.options is None:
            raise ConfigError(
                "this classifier was loaded and does not know its settings; make a new FewShotClassifier to fit."
            )
        prepared = prepare(self.model, self.prompt, dataset, split, self.ensemble)
        self.notes_, self.unreadable_ = prepared.notes, prepared.unreadable
        return prepared

    def train(
        self, prepared: Prepared, *, checkpoint: Checkpoint | None = None, on_step: OnStep | None = None
    ) -> Fitted:
        """Fit to the training pictures; the validation pictures only set the temperature.

        Args:
            prepared: What ``prepare`` gave.
            checkpoint: Where to keep the state; a run that finds it there goes on from it.
            on_step: Told of progress.
        """
        clip, task = prepared.clip, prepared.task
        torch.nn.Module.to(clip.model, self.device)
        zero_shot = class_features(clip.model, task.tokens)
        if self.ensemble:
            zero_shot = template_features(clip.model, clip, task.class_names, self.ensemble)
        compute = Compute(self.device, self.precision)
        began = time.monotonic() + seconds_spared()
        fitted = METHODS[self.method](
            task, clip, self.options, self.seed, compute, checkpoint=checkpoint, on_step=on_step
        )
        before = fitted.training.seconds if fitted.training else 0.0  # a resumed run began in another process
        self.seconds_ = max(time.monotonic() + seconds_spared() - began, before)
        if getattr(self.options, "memory_limit", None):
            # features take a third of the memory of a training step
            micro = fitted.engine["plan"]["micro_batch"] or self.options.batch_size
            self._at_once = min(self._at_once, 3 * micro)
        self.classes_ = np.asarray(task.class_names)
        self._saved = saved = _to_save(clip, task, fitted, zero_shot, self.method)
        if self.ensemble and self.method in ENSEMBLE_METHODS:
            saved.head = other_classes(
                saved.head, saved.text, base_model(saved.model), clip, task.class_names, self.ensemble
            )
        self._fit_temperature(prepared.val)
        return fitted

    def predict(self, images: Sequence[Picture]) -> NDArray[Any]:
        """Return the most probable label of each picture (M,)."""
        best = self.predict_proba(images).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, images: Sequence[Picture]) -> NDArray[np.float64]:
        """Return the probability of every class for each picture (M, N); rows sum to one.

        Raises:
            ImageError: A picture cannot be read; it is named.
        """
        named = [(name_of(image, place), source_of(image)) for place, image in enumerate(images)]
        encoded = self.encode(named)
        if encoded.unreadable:
            more = f" ({len(encoded.unreadable)} pictures in all)" if len(encoded.unreadable) > 1 else ""
            raise ImageError(f"{encoded.unreadable[0].reason}{more}")
        return self.fitted.probabilities(encoded.features)

    def score(self, images: Sequence[Picture], labels: Sequence[Any]) -> float:
        """Return the share of pictures whose most probable label is right."""
        _check_lengths(images, labels)
        return float(np.mean(self.predict(images) == np.asarray(labels)))

    def encode(
        self,
        pictures: Sequence[tuple[str, Source]],
        *,
        zero_shot: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Compute unit image features (M, D); with ``zero_shot`` (M, 2, D): adapted, and without the adapter."""
        return encode(
            self.fitted,
            pictures,
            device=self.device,
            precision=self.precision,
            batch_size=self._at_once,
            zero_shot=zero_shot,
            on_batch=on_batch,
        )

    @property
    def fitted(self) -> Saved:
        """What was fitted or loaded: class features, temperature, and what turns features into probabilities.

        Raises:
            ConfigError: Nothing was, yet.
        """
        if self._saved is None:
            raise ConfigError(
                "this classifier is not fitted yet; call fit(images, labels) or load(path) first."
            )
        return self._saved

    @property
    def temperature_(self) -> float:
        """What the logits are divided by before the softmax."""
        return self.fitted.temperature

    def save(self, path: str | Path) -> None:
        """Write the classifier to a folder: adapter/, class_features.safetensors, classifier.json.

        Raises:
            RunError: ``path`` is a file, or the adapter cannot be written.
        """
        write_classifier(Path(path), self.fitted, self.classes_.tolist())

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "auto") -> FewShotClassifier:
        """Read a classifier back; the text tower and the training pictures are not needed.

        Raises:
            RunError: The folder is missing, incomplete or damaged, or its base model has other weights now.
            ModelError: The base model cannot be loaded.
        """
        saved, labels = read_classifier(Path(path))
        return cls.of(saved, labels, device=device, precision=precision)

    @classmethod
    def of(
        cls, saved: Saved, labels: Sequence[Any], *, device: str = "auto", precision: str = "auto"
    ) -> FewShotClassifier:
        """Wrap what was saved, with one label a class."""
        classifier = cls(model=saved.model_id, device=device, precision=precision)
        classifier.method, classifier.options = saved.method, None
        saved.to(classifier.device)
        classifier._saved = saved
        classifier.classes_ = np.asarray(labels)
        return classifier

    def _fit_temperature(self, val: Sequence[Example]) -> None:
        """Set the temperature that makes the validation pictures most probable."""
        if val:
            encoded = self.encode([(example.image, example.source) for example in val])
            labels = np.array([val[index].label for index in encoded.kept])
            self.fitted.temperature = fit_temperature(self.fitted.logits(encoded.features).numpy(), labels)


def _to_save(clip: Clip, task: Task, fitted: Fitted, zero_shot: torch.Tensor, method: str) -> Saved:
    """Gather what a prediction needs."""
    return Saved(
        method=method,
        model=fitted.model,
        processor=clip.processor,
        model_id=clip.model_id,
        revision=clip.revision,
        sha256=clip.sha256,
        class_names=task.class_names,
        prompts=task.prompts,
        head=fitted.head or cosine_head(fitted.class_features, float(clip.model.logit_scale.detach().exp())),
        zero_shot_features=zero_shot,
        temperature=1.0,
        tower=fitted.tower,
        text=fitted.text,
    )


def _check_lengths(images: Sequence[Picture], labels: Sequence[Any]) -> None:
    """Raise unless there is one label an image."""
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images but {len(labels)} labels; expected one label an image.")
