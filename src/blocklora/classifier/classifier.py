"""The one classifier: everything that a prediction needs, and nothing that a prediction changes.

Axes: B = images of a batch, M = images, N = classes, D = the width of the space that the two towers share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blocklora.classifier.changes import ImageChange, TextChange
from blocklora.classifier.evidence import Evidence
from blocklora.classifier.heads import ROWS, Head
from blocklora.clip import Clip, Engine, ImageTower, image_features, prompted_image_features, with_weights
from blocklora.metrics import Answers, answers, joined_answers, top_classes

__all__ = ["Classifier", "images_judged_at_once", "portions"]

_NUMBERS = 1 << 24  # of a table of images by classes that exists at a time; in float64 it takes 134 MB


@dataclass(frozen=True)
class Classifier:
    """A fitted classifier in memory.

    Nothing in it changes after it was made, so many threads may predict with one classifier, and ask for zero-shot
    features beside it.

    Attributes:
        method: How it was fitted.
        base: The model as it was loaded, both towers or the image tower alone; never changed.
        class_names: N names.
        prompts: N sentences.
        head: What turns image features into logits.
        zero_shot_features: Unit features (N, D) of the class prompts by the base model's text tower.
        adapter: A ``PeftModel`` around a view of ``base.model``, for methods that train an adapter.
        image: What else was changed in the image tower.
        text: What was learned about class names in general; None where only these classes were learned.
        temperature: What logits are divided by.
        engine: Which engine computes features: ``auto``, ``lean`` or ``plain``.
        precision: What it was fitted in: ``fp32``, ``bf16`` or ``fp16``.
        evidence: What it keeps of images to judge its own answers by.
    """

    method: str
    base: Clip | ImageTower
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    head: Head
    zero_shot_features: Tensor
    adapter: Any = None
    image: ImageChange = field(default_factory=ImageChange)
    text: TextChange | None = None
    temperature: float = 1.0
    engine: Engine = "auto"
    precision: str = "fp32"
    evidence: Evidence = field(default_factory=Evidence)
    _tower: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the image tower that predicts: the base, the one with the adapter, or a view with other weights."""
        tower = self.base.model if self.adapter is None else self.adapter.get_base_model()
        object.__setattr__(
            self, "_tower", with_weights(tower, self.image.weights) if self.image.weights else tower
        )

    @property
    def is_base(self) -> bool:
        """Whether images have the base model's own features."""
        return self.adapter is None and not self.image

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        found: torch.device = next(self.base.model.parameters()).device
        return found

    @property
    def reads_both(self) -> bool:
        """Whether a prediction needs the base model's own features beside the adapted ones."""
        return not self.is_base and any(member.base for member in self.head.members)

    @property
    def adapted_tower(self) -> Any:
        """The model whose image tower predicts, with its adapter or new weights; learned vectors come beside it."""
        return self._tower

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Return what ``logits`` takes, of pixel values (B, 3, S, S) on the model's device.

        Unit features (B, D); where ``reads_both`` they are (B, 2, D), adapted and the base model's.
        """
        adapted = self.adapted_image_features(pixel_values)
        if not self.reads_both:
            return adapted
        return torch.stack([adapted, self.zero_shot_image_features(pixel_values)], dim=1)

    def adapted_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return unit features (B, D) by the tower that was adapted, or by the base model's where none was."""
        if self.image.prompts is not None:
            return prompted_image_features(self._tower, pixel_values, self.image.prompts)
        return image_features(self._tower, pixel_values, engine=self.engine)

    def zero_shot_image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the base model's unit features (B, D) of pixel values (B, 3, side, side)."""
        return image_features(self.base.model, pixel_values, engine=self.engine)

    def logits(self, features: Tensor) -> Tensor:
        """Turn image features into logits (M, N), in float64, not yet divided by the temperature.

        Args:
            features: (M, D) adapted, or (M, 2, D): adapted, and the base model's, which must be there where
                ``reads_both``.
        """
        if features.ndim == 3 and not self.reads_both:
            features = features[:, 0]
        return self.head.logits(features)

    def probabilities(self, features: Tensor) -> NDArray[np.float64]:
        """Turn image features, as ``logits`` takes them, into probabilities (M, N)."""
        if not len(features):
            return np.empty((0, len(self.class_names)))
        return np.asarray((self.logits(features) / self.temperature).softmax(dim=1).numpy())

    def top(self, features: Tensor, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the k most probable classes (M, k) of adapted image features (M, D), and their probabilities."""
        found = [
            top_classes(self.probabilities(part), k) for part in portions(features, len(self.class_names))
        ]
        classes, shares = zip(*found, strict=True)
        return np.concatenate(classes), np.concatenate(shares)

    def answers(self, features: Tensor, labels: NDArray[np.int64], k: int = 1) -> Answers:
        """Return what there is to judge in the answers to images; memory does not grow with M times N.

        Args:
            features: Adapted image features (M, D), M >= 1.
            labels: Their true classes (M,).
            k: How many of the most probable classes to keep.
        """
        found, done = [], 0
        for part in portions(features, len(self.class_names)):
            found.append(answers(self.probabilities(part), labels[done : done + len(part)], k))
            done += len(part)
        return joined_answers(found)

    def zero_shot_labels(self, features: Tensor) -> NDArray[np.int64]:
        """Return the class index (M,) that the base model gives its own image features (M, D)."""
        parts = portions(features, len(self.class_names))
        return np.concatenate([(part @ self.zero_shot_features.T).argmax(dim=1).numpy() for part in parts])

    def with_temperature(self, temperature: float) -> Classifier:
        """Return the same classifier with another temperature."""
        return replace(self, temperature=temperature)

    def of_other_classes(
        self, class_names: Sequence[str], prompts: Sequence[str], head: Head, zero_shot_features: Tensor
    ) -> Classifier:
        """Return a classifier of other classes, of features (N, D), on the same towers; it knows no images of them."""
        return replace(
            self,
            class_names=tuple(class_names),
            prompts=tuple(prompts),
            head=head,
            zero_shot_features=zero_shot_features,
            evidence=Evidence(),
        )


def images_judged_at_once(n_classes: int) -> int:
    """Return for how many images the probabilities of all classes exist at a time: whole runs of the head's rows."""
    found = max(1, _NUMBERS // n_classes)
    return found - found % ROWS if found > ROWS else found


def portions(features: Tensor, n_classes: int) -> Sequence[Tensor]:
    """Cut image features (M, D) into portions whose tables of images by classes are small; of none there is one."""
    return torch.split(features, images_judged_at_once(n_classes))
