"""Render the report: one HTML file that needs nothing else, now or in ten years."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from blocklora.core.errors import RunError
from blocklora.core.files import write_text
from blocklora.report import figures, tables, words

__all__ = ["render_report", "write_report"]

REQUIRED = ("accuracy", "n_test", "n_classes", "per_class")


def write_report(
    metrics: Mapping[str, Any], out: Path, open_picture: Callable[[str], Image.Image | None]
) -> None:
    """Write the report of one run as a single self-contained HTML file.

    Args:
        metrics: What RUN/metrics.json holds: the result of ``metrics.evaluate`` and, each optional, what is
            known about the run (``method``, ``model``, ``dataset``, ``history``, ``mistakes`` and so on).
        out: The file to write, such as RUN/report.html, in a folder that exists. It is written whole or not
            at all.
        open_picture: Gives the picture of a mistake by its name, or None where it cannot be had.

    Raises:
        RunError: ``metrics`` lacks a required key, or ``out`` is a folder.
    """
    out = Path(out)
    if out.is_dir():
        raise RunError(
            f"{out} is a folder; expected the name of the report file, such as {out / 'report.html'}."
        )
    page = render_report(metrics, open_picture)
    write_text(out, page.encode("utf-8", "replace").decode("utf-8"))  # a path may hold a lone surrogate


def render_report(metrics: Mapping[str, Any], open_picture: Callable[[str], Image.Image | None]) -> str:
    """The page that ``write_report`` writes.

    Args:
        metrics: See ``write_report``.
        open_picture: See ``write_report``.

    Returns:
        HTML.

    Raises:
        RunError: ``metrics`` lacks a required key.
    """
    missing = [key for key in REQUIRED if key not in metrics]
    if missing:
        raise RunError(
            f"metrics has no {', '.join(missing)}; expected the result of blocklora.metrics.evaluate."
        )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=words.percent, percent_range=words.percent_range)
    script = _asset("sort.js")
    return environment.from_string(_asset("template.html")).render(
        metrics=metrics,
        style=Markup(_asset("style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        **_view(metrics, open_picture),
    )


def _view(metrics: Mapping[str, Any], open_picture: Callable[[str], Image.Image | None]) -> dict[str, Any]:
    """What the template shows, each worked out and named; empty or None where nothing is known."""
    history, reliability = metrics.get("history") or [], metrics.get("reliability")
    return {
        "title": f"{metrics.get('dataset') or 'Test'}: {words.percent(metrics['accuracy'])} right",
        "sentence": words.run_sentence(metrics),
        "verdict": words.verdict(metrics),
        "scores": _scores(metrics),
        "notes": metrics.get("notes") or [],
        "unreadable": metrics.get("unreadable") or [],
        "class_tables": tables.class_tables(metrics["per_class"]),
        "confusion": tables.confusion_view(metrics),
        "mistakes": tables.picture_cards(metrics.get("mistakes") or [], open_picture),
        "reliability": reliability and figures.reliability_diagram(reliability),
        "calibration": words.calibration_sentence(metrics),
        "curve": figures.learning_curve(history),
        "history": history,
        "facts": tables.facts(metrics),
        "selection": metrics.get("selection") or {},
        "files": tables.file_lists(metrics.get("files") or {}),
        "versions": metrics.get("versions") or {},
        "created": str(metrics.get("created") or "").replace("T", " ").replace("+00:00", " UTC"),
    }


def _scores(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The accuracies of the headline: adapted, and zero-shot if it is known."""
    now, interval = metrics["accuracy"], metrics.get("accuracy_interval")
    before, before_interval = metrics.get("zero_shot_accuracy"), metrics.get("zero_shot_interval")
    if before is None:
        return [{"name": "Accuracy", "value": now, "interval": interval, "css": "adapted"}]
    return [
        {"name": "Adapted", "value": now, "interval": interval, "css": "adapted"},
        {"name": "Zero-shot", "value": before, "interval": before_interval, "css": "before"},
    ]


def _asset(name: str) -> str:
    return files("blocklora.report").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")
