"""Files of a classifier that fail: writing that stops, files of the version before, tensors that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_task import QUICK, fit_quickly, make_job, make_task, train_pixels

from blocklora.classifier import (
    Classifier,
    read_both_towers,
    write_classifier,
)
from blocklora.clip import Clip, load_clip

FORMAT_2 = Path(__file__).parent / "format_2"  # written by the version before
METHODS = ("block-lora", "full", "maple", "cocoop", "tip-adapter", "zero-shot")


@pytest.fixture(scope="module")
def base(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


@pytest.fixture(scope="module")
def fitted(base: Clip) -> dict[str, Classifier]:
    """A classifier of each of some methods."""
    task = make_task(base)
    return {name: fit_quickly(name, task, base, **QUICK[name]).classifier for name in METHODS}


def write(folder: Path, classifier: Classifier) -> None:
    write_classifier(folder, classifier, ["r", "g", "b"], {}, {"python": "3"})


def answers(classifier: Classifier, base: Clip) -> np.ndarray:
    with torch.no_grad():
        return classifier.probabilities(
            classifier.image_features(train_pixels(make_job(make_task(base), base)))
        )


@pytest.mark.parametrize("first", ["block-lora", "full", "maple"])
@pytest.mark.parametrize("second", ["zero-shot", "block-lora"])
def test_nothing_of_another_classifier_remains(
    base: Clip, fitted: dict[str, Classifier], tmp_path: Path, first: str, second: str
) -> None:
    kept = tmp_path / "kept"
    write(kept, fitted[first])
    (kept / "report.html").write_text("mine", encoding="utf-8")
    write(kept, fitted[second])
    write(tmp_path / "fresh", fitted[second])
    names = {path.relative_to(kept).as_posix() for path in kept.rglob("*")}
    fresh = {path.relative_to(tmp_path / "fresh").as_posix() for path in (tmp_path / "fresh").rglob("*")}
    assert names == fresh | {"report.html"}
    found, _ = read_both_towers(kept)
    np.testing.assert_array_equal(answers(found, base), answers(fitted[second], base))


def fail_at(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """Let call ``number`` of a function fail as on a full disk."""
    calls, real = [0], getattr(owner, name)

    def failing(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(28, "No space left on device")
        return real(*given, **named)

    patch.setattr(owner, name, failing)
