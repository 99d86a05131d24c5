"""RUN/metrics.json: written whole, one line a row, and read again, also as earlier versions wrote it.

Format 2 has the key ``format``. Before, there was none, ``confusion`` was a full matrix, ``files`` held every path,
and how values were chosen was told in sentences alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from blocklora.core.candidates import Candidate
from blocklora.core.choices import Choice
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.files import write_bytes
from blocklora.data.types import Unreadable
from blocklora.findings.finding import Finding
from blocklora.metrics import Confidence, Evaluation
from blocklora.report.notes import warnings
from blocklora.report.run_metrics import AddedClass, ConfusedPair, Mistake, PartFiles, RunMetrics
from blocklora.report.words import selection

__all__ = ["FORMAT", "json_text", "metrics_from_json", "metrics_json", "read_metrics", "write_metrics"]

FORMAT = 2
_BUILT = frozenset(
    {
        "evaluation",
        "confidence",
        "mistakes",
        "confused",
        "unreadable",
        "findings",
        "files",
        "choices",
        "candidates",
        "added_class",
    }
)
_OLD = frozenset({"old_selection", "old_selected_by"})
_PLAIN = tuple(f.name for f in fields(RunMetrics) if f.name not in _BUILT | _OLD)


def metrics_json(metrics: RunMetrics) -> dict[str, Any]:
    """Return what metrics.json holds: the facts, and ``selection``, ``selected_by`` and ``warnings`` made of them."""
    choices = metrics.choices
    chosen_by = {name: choice.by for name, choice in choices.items()}
    facts = {name: getattr(metrics, name) for name in _PLAIN}
    return {
        "format": FORMAT,
        **metrics.evaluation.to_json(),
        **facts,
        "confidence": metrics.confidence and metrics.confidence.to_json(),
        "ensemble": list(metrics.ensemble),
        "notes": list(metrics.notes),
        "warnings": warnings(metrics),
        "history": [{key: _finite(value) for key, value in point.items()} for point in metrics.history],
        "choices": {name: choice.to_json() for name, choice in choices.items()},
        "candidates": [candidate.to_json() for candidate in metrics.candidates],
        "added_class": metrics.added_class and metrics.added_class.to_json(),
        "selection": selection(choices, metrics.old_selection),
        "selected_by": {**metrics.old_selected_by, **chosen_by},
        "mistakes": [
            {name: _listed(value) for name, value in asdict(mistake).items()} for mistake in metrics.mistakes
        ],
        "confused": [pair.to_json() for pair in metrics.confused],
        "unreadable": [asdict(bad) for bad in metrics.unreadable],
        "findings": [_named(asdict(one)) for one in metrics.findings],
        "files": {part: {"n": files.n, "first": list(files.first)} for part, files in metrics.files.items()},
    }


def metrics_from_json(facts: Mapping[str, Any], name: str = "metrics") -> RunMetrics:
    """Return what ``metrics_json`` wrote, in this or an earlier format.

    Args:
        facts: The JSON object.
        name: Of the file, for messages.

    Raises:
        RunError: It is of a later format, or a fact is missing or not as expected.
    """
    version = facts.get("format", 1)
    if version not in (1, FORMAT):
        raise RunError(
            f"{name}: format {version} is later than {FORMAT}, the last one known here; update blocklora."
        )
    try:
        return _built(_upgraded(facts) if version == 1 else facts)
    except KeyError as error:
        raise RunError(f"{name}: has no {error.args[0]}; expected the metrics.json of a run.") from error
    except (TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunError(f"{name}: not as expected ({error}); it is damaged, or no metrics.json.") from error


def read_metrics(path: Path) -> RunMetrics:
    """Read a RUN/metrics.json.

    Raises:
        RunError: It cannot be read, or is no metrics.json.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); this is not a whole RUN folder.") from error
    if not isinstance(facts, dict):
        raise RunError(f"{path}: holds no JSON object; expected the metrics.json of a run.")
    return metrics_from_json(facts, str(path))


def write_metrics(path: Path, metrics: RunMetrics) -> None:
    """Write a RUN/metrics.json, whole or not at all.

    Args:
        path: The file, in a folder that exists.
        metrics: What to write.
    """
    write_bytes(path, json_text(metrics_json(metrics)).encode("utf-8", "backslashreplace"))


def json_text(facts: Mapping[str, Any]) -> str:
    """Return a JSON object as text that is small and can be read: a line for each row of a list or inner object.

    A lone surrogate (of a file name in no known encoding) stays as it is; NaN and infinities raise ``ValueError``.
    """
    return "{\n" + ",\n".join(f"{_dump(key)}: {_rows(value)}" for key, value in facts.items()) + "\n}\n"


def _rows(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list | dict | str):
        return "[\n" + ",\n".join(f" {_dump(row)}" for row in value) + "\n]"
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f" {_dump(key)}: {_dump(row)}" for key, row in value.items()) + "\n}"
    return _dump(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts by name, tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}


def _listed(value: Any) -> Any:
    return list(map(list, value)) if isinstance(value, tuple) else value


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _built(facts: Mapping[str, Any]) -> RunMetrics:
    """Return the metrics of an object of format 2; a key that is missing or None takes its default."""
    plain = {name: facts[name] for name in _PLAIN if facts.get(name) is not None}
    for name in ("ensemble", "notes", "history"):
        plain[name] = tuple(facts.get(name) or ())
    return RunMetrics(
        evaluation=Evaluation.from_json(facts),
        confidence=Confidence.from_json(facts["confidence"]) if facts.get("confidence") else None,
        mistakes=tuple(map(Mistake.from_json, facts.get("mistakes") or ())),
        confused=tuple(map(ConfusedPair.from_json, facts.get("confused") or ())),
        unreadable=tuple(Unreadable(**row) for row in facts.get("unreadable") or ()),
        findings=tuple(Finding.from_facts(row) for row in facts.get("findings") or ()),
        files={
            part: PartFiles(row["n"], tuple(row["first"])) for part, row in (facts.get("files") or {}).items()
        },
        choices={name: Choice.from_json(row) for name, row in (facts.get("choices") or {}).items()},
        candidates=tuple(Candidate.from_json(row) for row in facts.get("candidates") or ()),
        added_class=AddedClass.from_json(facts["added_class"]) if facts.get("added_class") else None,
        old_selection=_not_of(facts, "selection"),
        old_selected_by=_not_of(facts, "selected_by"),
        **plain,
    )


def _not_of(facts: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return the entries that stand for no choice: those of an earlier format."""
    choices = facts.get("choices") or {}
    return {
        name: text
        for name, text in (facts.get(key) or {}).items()
        if name not in {*choices, "test images", "test pictures"}
    }


def _upgraded(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object of format 1 as format 2 has it."""
    confusion = np.array(facts["confusion"])  # (C, C)
    places = np.argwhere(confusion)
    files = facts.get("files") or {}
    return {
        **{key: value for key, value in facts.items() if key != "confusion"},
        "confusion_counts": [[int(i), int(j), int(confusion[i, j])] for i, j in places],
        "files": {
            part: asdict(PartFiles(held) if isinstance(held, int) else PartFiles.of(held))
            for part, held in files.items()
            if held is not None
        },
    }
