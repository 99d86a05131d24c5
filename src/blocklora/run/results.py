"""What makes a RUN folder: the classifier, what it was fitted to, the figures and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from blocklora.classifier import write_classifier
from blocklora.core.errors import ImageError
from blocklora.core.files import write_json
from blocklora.core.fingerprint import recorded_versions
from blocklora.data import Dataset, Example, open_image
from blocklora.methods import Fit, FitConfig
from blocklora.report import RunMetrics, write_confusion, write_metrics, write_report
from blocklora.run.folder import CONFUSION, METRICS, REPORT, SPLIT

__all__ = ["write_fitted", "write_results"]


def write_fitted(out: Path, fit: Fit, dataset: Dataset, config: FitConfig) -> None:
    """Write what was learned; its parameters are named as those of ``FewShotClassifier``."""
    left_out = ("model", "method", "device", "precision", "deterministic")
    parameters = {name: value for name, value in config.to_json().items() if name not in left_out}
    labels = list(dataset.class_names)
    write_classifier(out, fit.classifier, labels, parameters, recorded_versions(), dataset.found_names)


def write_results(
    out: Path, record: Mapping[str, Any], metrics: RunMetrics, images: Sequence[Example]
) -> None:
    """Write what makes a RUN folder finished, whose classifier is there.

    Args:
        out: The folder.
        record: What split.json is to hold.
        metrics: Of the run.
        images: Those that the report may show.
    """
    write_json(out / SPLIT, record)
    write_confusion(out / CONFUSION, metrics.evaluation)
    _write_report(out / REPORT, metrics, images)
    write_metrics(out / METRICS, metrics)  # the very last: a folder that has it is finished


def _write_report(path: Path, metrics: RunMetrics, images: Sequence[Example]) -> None:
    """Write the report, with small copies of some training and test images."""
    sources = {example.image: example.source for example in images}

    def open_by_name(image: str) -> Image.Image | None:
        try:
            return open_image(sources[image])
        except (KeyError, ImageError):
            return None

    write_report(metrics, path, open_by_name)
