"""Everything that is known about one run: its evaluation, what was trained, and how everything was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from blocklora.core.candidates import Candidate
from blocklora.core.choices import Choice
from blocklora.data.types import Unreadable
from blocklora.findings.finding import Finding
from blocklora.metrics import Confidence, Evaluation, wilson_interval

__all__ = ["AddedClass", "ConfusedPair", "HowAdded", "Mistake", "PartFiles", "RunMetrics"]

HowAdded = Literal["name", "features", "training"]

MOST_PATHS = 500  # of each part; split.json has all


@dataclass(frozen=True)
class Mistake:
    """A test image that was wrongly classified.

    Attributes:
        image: Its name.
        label: The true class.
        predicted: What it was taken for.
        top: The most probable classes with their probabilities.
        nearest: The nearest training images: name, class, cosine; none where the classifier keeps none.
        heat: Rows of patches, from the top left, in [-1, 1]: how much each spoke for ``predicted``. They cover the
            square in the middle of the image. Empty where there are none.
    """

    image: str
    label: str
    predicted: str
    top: tuple[tuple[str, float], ...] = ()
    nearest: tuple[tuple[str, str, float], ...] = ()
    heat: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Mistake:
        """Return the mistake that a row of metrics.json is."""
        lists = {name: tuple(map(tuple, facts.get(name) or ())) for name in ("top", "nearest", "heat")}
        return cls(facts["image"], facts["label"], facts["predicted"], **lists)


@dataclass(frozen=True)
class ConfusedPair:
    """``n`` of the ``of`` test images of class ``label`` were taken for ``predicted``; images by name that show it.

    Attributes:
        label: The true class.
        predicted: What they were taken for.
        n: How many.
        of: Test images of the true class.
        mistaken: Some of the ``n``, the most confident first.
        of_label: Training images of the true class.
        of_predicted: Training images of the other.
    """

    label: str
    predicted: str
    n: int
    of: int
    mistaken: tuple[str, ...] = ()
    of_label: tuple[str, ...] = ()
    of_predicted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything by name, ready for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ConfusedPair:
        """Return the pair that ``to_json`` gave."""
        named: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in facts.items()}
        return cls(**named)


@dataclass(frozen=True)
class AddedClass:
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

    def to_json(self) -> dict[str, Any]:
        """Return everything by name, ready for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> AddedClass:
        """Return what ``to_json`` gave."""
        named: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in facts.items()}
        return cls(**named)


@dataclass(frozen=True)
class PartFiles:
    """The images of a part: how many, and the names of the first ones; split.json has all."""

    n: int
    first: tuple[str, ...] = ()

    @classmethod
    def of(cls, images: Sequence[str]) -> PartFiles:
        """Return the number and the first names of images."""
        return cls(len(images), tuple(images[:MOST_PATHS]))


@dataclass(frozen=True)
class RunMetrics:
    """What metrics.json holds and the report shows. Whatever is not known is None or empty.

    ``measure`` fills in the first five; ``dataclasses.replace`` adds what is known about the run.

    Attributes:
        evaluation: What the test images say.
        temperature: What logits are divided by.
        confidence: What the test images say of the confidence; None in files of earlier versions.
        mistakes: Wrong predictions, those of the highest probability first.
        confused: Pairs of classes that were confused most often, with images.
        unreadable: Images that could not be read and were left out.
        findings: What is wrong with the images, the gravest kind first; found after everything was measured.
        run: The RUN folder that was measured again.
        method: Such as "block-lora".
        model: A Hub id, a folder, or "tiny".
        dataset: Its name.
        prompt: The sentence a class name stands in.
        ensemble: The templates that predict, where there are several.
        protocol: How the shots were drawn.
        index: The file that named the training images.
        classes: The half of the classes that was used.
        shots: Training images a class at most; None is all.
        seed: Of every random stream.
        n_train: Training images.
        n_val: Validation images.
        trainable_parameters: Of the method.
        total_parameters: Of the model and the method.
        train_seconds: Of training.
        peak_memory_bytes: Of the device, or of the process on a CPU.
        device: Such as "cuda".
        precision: ``fp32``, ``bf16`` or ``fp16``.
        engine: What the engine says of itself, ready for JSON.
        history: ``step``, ``loss`` and ``lr`` of points of the training.
        choices: By name, how each setting and the kept step was chosen.
        candidates: What a method tried that chooses among several.
        added_class: What became of the run that a class was added to; None of a run of its own.
        notes: Whatever else a reader should know, as sentences.
        files: By part, "train", "val" and "test".
        versions: By package.
        created: When, in ISO 8601.
        old_selection: Sentences on choices, of a file written before choices were facts.
        old_selected_by: The same in a word each.
    """

    evaluation: Evaluation
    temperature: float | None = None
    confidence: Confidence | None = None
    mistakes: tuple[Mistake, ...] = ()
    confused: tuple[ConfusedPair, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    findings: tuple[Finding, ...] = ()
    run: str | None = None
    method: str | None = None
    model: str | None = None
    dataset: str | None = None
    prompt: str | None = None
    ensemble: tuple[str, ...] = ()
    protocol: str | None = None
    index: str | None = None
    classes: str | None = None
    shots: int | None = None
    seed: int | None = None
    n_train: int | None = None
    n_val: int | None = None
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    train_seconds: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float | None]] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    added_class: AddedClass | None = None
    notes: tuple[str, ...] = ()
    files: Mapping[str, PartFiles] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str | None = None
    old_selection: Mapping[str, str] = field(default_factory=dict)
    old_selected_by: Mapping[str, str] = field(default_factory=dict)
