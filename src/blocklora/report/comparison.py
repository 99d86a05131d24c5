"""Two or more runs on the same test images: what is known, and what it means in plain words. N images, R runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blocklora.metrics import PairedAnswers
from blocklora.report.words import Verdict, count, join, p_words, signed

__all__ = [
    "ComparedPair",
    "ComparedRun",
    "Comparison",
    "DisputedImage",
    "compared_sentence",
    "pair_verdict",
    "run_words",
]


@dataclass(frozen=True)
class ComparedRun:
    """One run on the N images that all runs have.

    Attributes:
        key: The letter it is called by: "A" for the first run.
        folder: The RUN folder, as it was given.
        dataset: Its name; None if it is not known, like the next four.
        model: A hub id, a folder, or "tiny".
        method: Such as "block-lora".
        shots: Training images a class at most; None is all, too.
        seed: Of every random stream.
        n_test: All test images of the run, N or more.
        n_correct: Right answers among the N.
        accuracy: In [0, 1].
        accuracy_interval: 95%, Wilson.
        ece: Expected calibration error, in [0, 1].
        nll: Log loss: the mean negative log-likelihood of the true class, in nats.
        train_seconds: Of training; None if it is not known, like the next one.
        trainable_parameters: Of the method.
    """

    key: str
    folder: str
    dataset: str | None
    model: str | None
    method: str | None
    shots: int | None
    seed: int | None
    n_test: int
    n_correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    ece: float
    nll: float
    train_seconds: float | None
    trainable_parameters: int | None


@dataclass(frozen=True)
class ComparedPair:
    """Two runs, by their letters: how they answered the N images, and McNemar's p after Holm's correction."""

    first: str
    second: str
    answers: PairedAnswers
    p_holm: float


@dataclass(frozen=True)
class DisputedImage:
    """An image that some runs get right and others wrong; ``predicted`` and ``correct`` hold an entry for each run."""

    image: str
    label: str
    predicted: tuple[str, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True)
class Comparison:
    """R >= 2 runs on the N >= 1 test images that all of them have.

    Attributes:
        n_images: N.
        runs: R runs, in the order given.
        pairs: All R (R - 1) / 2 pairs.
        disputed: In the order of the first run's test images.
        notes: What a reader must know, one sentence each; images that are not compared come first.
    """

    n_images: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]
    disputed: tuple[DisputedImage, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        keys = [run.key for run in self.runs]
        return {
            "n_images": self.n_images,
            "notes": list(self.notes),
            "runs": [asdict(run) | {"accuracy_interval": list(run.accuracy_interval)} for run in self.runs],
            "pairs": [_pair_json(pair) for pair in self.pairs],
            "disputed": [
                {
                    "image": one.image,
                    "label": one.label,
                    "predicted": dict(zip(keys, one.predicted, strict=True)),
                    "correct": dict(zip(keys, one.correct, strict=True)),
                }
                for one in self.disputed
            ],
        }


def pair_verdict(pair: ComparedPair) -> Verdict:
    """Say which run of a pair is better. Clear only if the interval excludes 0 and Holm's p < 0.05 too.

    Returns:
        ``better`` if that is the first, ``worse`` if the second, ``same`` if it is not clear.
    """
    answers, (low, high) = pair.answers, pair.answers.interval
    points = f"{100 * abs(answers.difference):.1f} points"
    corrected = "" if pair.p_holm == answers.p_value else ", Holm-corrected"
    evidence = (
        f"95% interval of the difference {signed(low)} to {signed(high)} points, {p_words(pair.p_holm)}{corrected}. "
        f"{pair.first} alone is right on {count(answers.only_first, 'image')}, {pair.second} alone on "
        f"{answers.only_second:,}; both on {answers.both:,}, neither on {answers.neither:,}."
    )
    if pair.p_holm >= 0.05 or low <= 0 <= high:
        headline = f"No clear difference between {pair.first} and {pair.second} ({signed(answers.difference)} points)"
        return Verdict("same", headline, evidence)
    if answers.difference > 0:
        return Verdict("better", f"{pair.first} is better than {pair.second} by {points}", evidence)
    return Verdict("worse", f"{pair.second} is better than {pair.first} by {points}", evidence)


def run_words(run: ComparedRun) -> str:
    """What a run is, such as "block-lora on tiny, 16 images a class, seed 1"; what is not known is left out."""
    known = [
        f"{run.method or 'fitted'}{f' on {run.model}' if run.model else ''}",
        None if run.shots is None else f"{count(run.shots, 'image')} a class",
        None if run.seed is None else f"seed {run.seed}",
    ]
    return ", ".join(part for part in known if part)


def compared_sentence(comparison: Comparison) -> str:
    """What is compared, in a sentence."""
    names = sorted({run.dataset for run in comparison.runs if run.dataset})
    of = f" of {join(names)}" if names else ""
    return f"{count(len(comparison.runs), 'run')} on the same {count(comparison.n_images, 'test image')}{of}."


def _pair_json(pair: ComparedPair) -> dict[str, Any]:
    answers = pair.answers
    return {
        "first": pair.first,
        "second": pair.second,
        "difference": answers.difference,
        "interval": list(answers.interval),
        "p_value": answers.p_value,
        "p_holm": pair.p_holm,
        **asdict(answers),
    }
