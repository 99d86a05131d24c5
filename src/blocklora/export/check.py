"""Whether an export answers as its run does, on the run's own validation or training images; never on test images."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blocklora.classifier import encode
from blocklora.core.errors import ConfigError, RunError
from blocklora.data import Example, load_dataset, open_image
from blocklora.export.facts import Facts
from blocklora.run.folder import CONFIG, SPLIT, part_images
from blocklora.run.load import LoadedRun

__all__ = [
    "TOLERANCES",
    "Agreement",
    "CheckImages",
    "agreement",
    "check_consumer",
    "expected_probabilities",
    "images_to_check",
]

_MOST, _CONSUMED = 256, 8  # images that an export is compared on, and images that its predict.py is given
_IMAGE_TOLERANCE = 0.02  # of a probability, where an export decodes and resizes by itself
_TIE = 1e-5  # classes whose probabilities the run itself hardly tells apart
_BUNDLED = "clipart"
_ALONE = """
import os, runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))  # importing one of them fails
del sys.argv[:2]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Tolerance:
    """What an export in some precision must keep: the share of equal answers, and the change of a probability."""

    top_1: float
    probability: float


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(1.0, 0.001),
    "fp16": Tolerance(0.99, 0.05),
    "int8": Tolerance(0.95, 0.5),
}
"""By precision. One image less than the share asks for is let pass, so that few images do not decide by one."""


@dataclass(frozen=True)
class CheckImages:
    """Images that an export is compared on.

    Attributes:
        source: ``validation``, ``training`` or ``bundled``.
        images: The images; labels count for validation images only.
    """

    source: str
    images: Sequence[Example]


@dataclass(frozen=True)
class Agreement:
    """How far an export is from its run.

    Attributes:
        images: How many were compared.
        source: Which ones: ``validation``, ``training`` or ``bundled``.
        top_1: The share whose most probable class is the same.
        largest_difference: Of any probability.
    """

    images: int
    source: str
    top_1: float
    largest_difference: float

    def to_json(self) -> dict[str, object]:
        """Return the facts."""
        return asdict(self)

    def require(self, precision: str) -> None:
        """Refuse an export that is too far from its run.

        Raises:
            ConfigError: It says how far.
        """
        allowed = TOLERANCES[precision]
        changed = round((1 - self.top_1) * self.images)
        few_changed = changed <= max((1 - allowed.top_1) * self.images, 0 if allowed.top_1 == 1 else 1)
        if few_changed and self.largest_difference <= allowed.probability:
            return
        raise ConfigError(
            f"precision '{precision}': of {self.images} {self.source} images {self.top_1:.1%} keep their class "
            f"(expected {allowed.top_1:.0%}), and a probability changes by up to {self.largest_difference:.3f} "
            f"(expected {allowed.probability:g} at most), so nothing was written; use a higher precision."
        )


def images_to_check(run: Path) -> CheckImages:
    """Return a run's validation images; or else its training images; or else, where they are gone, bundled ones."""
    if (run / SPLIT).is_file() and (run / CONFIG).is_file():
        for part, source in (("val", "validation"), ("train", "training")):
            found = part_images(run, part)
            if found:
                return CheckImages(source, _spread(found))
    return CheckImages("bundled", _spread(load_dataset(_BUNDLED).test))


def agreement(expected: NDArray[np.float64], found: NDArray[np.float64], source: str) -> Agreement:
    """Compare probabilities (M, N) of an export with those of its run.

    An answer counts as the same where the run itself gave both classes the same probability, to 1e-5.
    """
    rows = np.arange(len(expected))
    lost = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
    return Agreement(
        images=len(expected),
        source=source,
        top_1=float((lost <= _TIE).mean()),
        largest_difference=float(np.abs(expected - found).max()),
    )


def expected_probabilities(
    loaded: LoadedRun, images: CheckImages
) -> tuple[NDArray[np.float64], list[Example]]:
    """Return what the run itself says (M, N), and the images that can be read (M)."""
    named = [(example.image, example.source) for example in images.images]
    encoded = encode(loaded.classifier, named, loaded.compute, batch_size=loaded.images_at_once)
    kept = [images.images[index] for index in encoded.kept]
    if not kept:
        raise RunError(
            "none of the images that an export is checked on can be read; put the run's images back."
        )
    return loaded.classifier.probabilities(encoded.features), kept


def check_consumer(
    folder: Path,
    images: Sequence[Example],
    source: str,
    expected: NDArray[np.float64],
    facts: Facts,
    without: Sequence[str],
) -> Agreement:
    """Run predict.py of an exported folder in a process that lacks some packages, and compare its answers.

    Args:
        folder: The exported folder.
        images: Some images (M).
        source: Which they are.
        expected: The run's probabilities (M, N).
        facts: Of the export.
        without: Packages that the process cannot import, blocklora among them.

    Returns:
        How far the answers are from the run's, on a few of the images.

    Raises:
        RunError: It fails, or answers otherwise.
    """
    places = np.unique(np.linspace(0, len(images) - 1, _CONSUMED).astype(int))  # K of the M images
    with tempfile.TemporaryDirectory() as work:
        paths = [_file(images[place], Path(work) / f"{place}.png") for place in places]
        command = [
            sys.executable,
            "-c",
            _ALONE,
            ",".join(without),
            str(folder / "predict.py"),
            *map(str, paths),
        ]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RunError(
            f"{folder / 'predict.py'}: failed on the run's own images: {(done.stderr or done.stdout).strip()[-500:]}"
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    labels = list(facts.labels)
    given = np.array([labels.index(answer["label"]) for answer in answers])
    own = expected[places, given]  # (K,)
    change = np.abs(own - np.array([answer["probability"] for answer in answers]))
    allowed = TOLERANCES[facts.precision].probability + _IMAGE_TOLERANCE
    if change.max() > allowed:
        worst = int(change.argmax())
        raise RunError(
            f"{folder / 'predict.py'}: gives {images[places[worst]].image} the class {answers[worst]['label']!r} with "
            f"probability {answers[worst]['probability']:.3f}, the run {own[worst]:.3f}; nothing was written."
        )
    same = expected[places].max(axis=1) - own <= _TIE
    return Agreement(len(places), source, float(same.mean()), float(change.max()))


def _file(example: Example, spare: Path) -> Path:
    """Return an image's file; one in memory is written to ``spare``."""
    if isinstance(example.source, Path):
        return example.source
    open_image(example.source).save(spare)
    return spare


def _spread(images: Sequence[Example]) -> list[Example]:
    """Return at most so many images as are compared, evenly from all."""
    places = np.unique(np.linspace(0, len(images) - 1, min(_MOST, len(images))).astype(int))
    return [images[place] for place in places.tolist()]
