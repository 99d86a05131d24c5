"""The report of one run: what its page shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocklora.report import candidates, figures, notes, tables, words
from blocklora.report.confidence import confidence_view
from blocklora.report.confused import pair_views
from blocklora.report.finding_views import kind_views
from blocklora.report.html import check_page, render, write_page
from blocklora.report.run_metrics import RunMetrics
from blocklora.report.suggestions import suggestions
from blocklora.report.tables import OpenImage

__all__ = ["render_report", "write_report"]

_OF_A_KIND = 6  # findings that are shown


def write_report(metrics: RunMetrics, out: Path, open_image: OpenImage) -> None:
    """Write the report of one run as a single self-contained HTML file.

    Args:
        metrics: What is known about the run.
        out: The file to write, such as RUN/report.html, in a folder that exists. It is written whole or not
            at all.
        open_image: Gives the image of a mistake by its name, or None where it cannot be had.

    Raises:
        RunError: ``out`` is a folder.
    """
    out = Path(out)
    check_page(out)
    write_page(out, render_report(metrics, open_image))


def render_report(metrics: RunMetrics, open_image: OpenImage) -> str:
    """Return the page that ``write_report`` writes, as HTML."""
    return render("template.html", **_view(metrics, open_image))


def _view(metrics: RunMetrics, open_image: OpenImage) -> Mapping[str, Any]:
    """What the template shows, each worked out and named; empty or None where nothing is known."""
    found, shown = metrics.evaluation, _shown_names(metrics)
    return {
        "title": f"{metrics.dataset or 'Test'}: {words.percent(found.accuracy)} accuracy",
        "sentence": words.run_sentence(metrics),
        "verdict": words.verdict(metrics),
        "scores": words.scores(metrics),
        "added": words.added_sentences(metrics.added_class) if metrics.added_class else [],
        "untested": notes.untested_note(found),
        "warnings": _other_warnings(metrics),
        "notes": metrics.notes,
        "unreadable": [
            (shown[bad.image], bad.reason.replace(bad.image, shown[bad.image])) for bad in metrics.unreadable
        ],
        "kinds": kind_views(metrics.findings, open_image, _OF_A_KIND),
        "class_tables": tables.class_tables(found.per_class),
        "pairs": pair_views(metrics.confused, shown, open_image),
        "suggestions": suggestions(metrics),
        "confusion": tables.confusion_view(found),
        "mistakes": tables.image_cards(metrics.mistakes, shown, open_image),
        "reliability": figures.reliability_diagram(found.reliability),
        "calibration": words.calibration_sentence(metrics),
        "confidence": confidence_view(metrics),
        "curve": figures.learning_curve(metrics.history),
        "learning_rates": _learning_rates(metrics),
        "candidates": candidates.candidate_rows(
            [one for one in metrics.candidates if one.log_loss is not None]
        ),
        "not_tried": candidates.candidate_rows([one for one in metrics.candidates if one.log_loss is None]),
        "candidate_plot": candidates.candidate_plot(metrics.candidates),
        "facts": tables.facts(metrics),
        "chosen": words.chosen(metrics.choices, metrics.old_selection),
        "files": tables.file_lists(metrics.files, shown),
        "versions": metrics.versions,
        "comparison": found.difference and found.difference.method,
        "created": (metrics.created or "").replace("T", " ").replace("+00:00", " UTC"),
    }


def _shown_names(metrics: RunMetrics) -> dict[str, str]:
    """The name to show of every image that the page names."""
    listed = [name for part in metrics.files.values() for name in part.first]
    for pair in metrics.confused:
        listed += [*pair.mistaken, *pair.of_label, *pair.of_predicted]
    listed += [name for mistake in metrics.mistakes for name, *_ in mistake.nearest]
    listed += [mistake.image for mistake in metrics.mistakes] + [bad.image for bad in metrics.unreadable]
    return words.short_names(listed)


def _other_warnings(metrics: RunMetrics) -> list[str]:
    """The warnings but that on classes without a test image, which stands beside the headline."""
    untested = notes.untested_note(metrics.evaluation)
    return [note for note in notes.warnings(metrics) if note != untested]


def _learning_rates(metrics: RunMetrics) -> tuple[float, float] | None:
    """The first and the last learning rate, if both are known."""
    rates = [point.get("lr") for point in (*metrics.history[:1], *metrics.history[-1:])]
    return (rates[0], rates[-1]) if rates and rates[0] is not None and rates[-1] is not None else None
