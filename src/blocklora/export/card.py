"""The model card of a run: what was measured, and how everything was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from blocklora.classifier import ClassifierRecord, model_card
from blocklora.data import fitted_to
from blocklora.report import read_metrics, what_is_shipped
from blocklora.report.words import calibration_sentence, chosen, percent, percent_range, run_sentence, scores
from blocklora.run.folder import METRICS, SPLIT, read_json

__all__ = ["run_card"]


def run_card(run: Path, *, use: str, library: str, sections: Sequence[tuple[str, str]] = ()) -> str:
    """Return the model card of a RUN folder, or of what ``FewShotClassifier.save`` wrote.

    Args:
        run: The folder.
        use: How to use the result, in Markdown.
        library: What loads it, as the hub names libraries.
        sections: More headings with their text.

    Raises:
        RunError: The folder is not a whole one.
    """
    measured = _measured(run / METRICS) if (run / METRICS).is_file() else [_NOT_MEASURED]
    return model_card(
        ClassifierRecord.read(run),
        use=use,
        library=library,
        images_a_class=_images_a_class(run / SPLIT),
        sections=[*measured, *sections],
    )


_NOT_MEASURED = ("Measured", "Nothing is known of how good it is: it was saved without test images.")


def _measured(path: Path) -> list[tuple[str, str]]:
    """Return what metrics.json says, as sections."""
    metrics = read_metrics(path)
    rows = [
        f"| {score.name} | {percent(score.value)} | {percent_range(score.interval)} |"
        for score in scores(metrics)
    ]
    table = "\n".join(["| | accuracy | 95% interval |", "|---|---|---|", *rows])
    shipped = what_is_shipped(metrics)
    text = "\n\n".join([run_sentence(metrics), table, *shipped, calibration_sentence(metrics)])
    how = "\n".join(f"- {name}: {words}" for name, words in chosen(metrics))
    return [("Measured", text), *([("How it was chosen", how)] if how else [])]


def _images_a_class(path: Path) -> Mapping[int, int] | None:
    """Return how many images of each class the classifier was fitted to."""
    if not path.is_file():
        return None
    record = read_json(path)
    return Counter(item["label"] for part in fitted_to(record) for item in record[part])
