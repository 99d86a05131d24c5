"""Classify files with a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blocklora.core.errors import DataError
from blocklora.data import IMAGE_ENDINGS
from blocklora.estimator import FewShotClassifier

__all__ = ["predict_files"]


def predict_files(
    run: Path, images: Sequence[Path], *, top_k: int = 5, device: str = "auto"
) -> dict[str, Any]:
    """Classify files, and all images below folders.

    Args:
        run: A RUN folder.
        images: Files and folders.
        top_k: How many classes to name for each image; no more than there are.
        device: Where to compute.

    Returns:
        ``predictions``: for each readable image its name, label, probability and the ``top_k`` classes;
        ``unreadable``: the others, with the reason.

    Raises:
        RunError: The folder is not a finished run.
        DataError: There is no image at all.
    """
    files = [file for path in images for file in _files(path)]
    if not files:
        raise DataError(f"{images[0]}: this folder holds no images ({', '.join(sorted(IMAGE_ENDINGS))}).")
    classifier = FewShotClassifier.load(run, device=device)
    encoded = classifier.encode([(str(file), file) for file in files])
    probabilities = classifier.fitted.probabilities(encoded.features)
    labels = classifier.classes_.tolist()
    predictions = []
    for index, row in zip(encoded.kept, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k].tolist()
        top = [{"label": labels[label], "probability": float(row[label])} for label in best]
        predictions.append({"image": str(files[index]), **top[0], "top": top})
    unreadable = [{"image": bad.image, "reason": bad.reason} for bad in encoded.unreadable]
    return {"run": str(run), "model": classifier.model, "predictions": predictions, "unreadable": unreadable}


def _files(path: Path) -> list[Path]:
    """Return a file itself, or the images below a folder."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS and file.is_file())
