"""The RUN folder: what is in it, and whether a run may start, go on, or is finished.

It fills in this order: config.json and split.json (what will be done); checkpoint.safetensors and checkpoint.start.json
(while training); predictions.csv (what was measured); adapter/, class_features.safetensors, evidence.safetensors and
classifier.json (what was learned); split.json again, now with the test images; confusion.csv; report.html; and last
metrics.json: a folder that has it is finished. Before that, the run can be resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from blocklora.classifier import CLASSIFIER_FILES
from blocklora.core.errors import RunError
from blocklora.core.files import write_json
from blocklora.data import DataChoice, Example, read_split_part
from blocklora.report import RunMetrics, read_metrics

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "CONFUSION",
    "METRICS",
    "PREDICTIONS",
    "REPORT",
    "SPLIT",
    "check_origin",
    "check_run",
    "data_choice",
    "free_folder",
    "part_images",
    "read_json",
    "start_run",
]

CONFIG, SPLIT, METRICS, REPORT = "config.json", "split.json", "metrics.json", "report.html"
PREDICTIONS, CONFUSION = "predictions.csv", "confusion.csv"
CHECKPOINT = "checkpoint.safetensors"
_ORIGIN = "origin"  # of config.json: checked by itself, as it is known only when the model is loaded


def check_run(
    out: Path, config: Mapping[str, Any], record: Mapping[str, Any], resume: bool
) -> RunMetrics | None:
    """Check that a run may start in a folder, or go on there; nothing is written.

    Args:
        out: The folder, which is there.
        config: Every setting, as config.json will hold it.
        record: The training and validation images, as split.json will hold them.
        resume: Whether an unfinished run is to go on.

    Returns:
        The metrics if the run is finished, else None.

    Raises:
        RunError: The folder holds something else, or another run, or no run to resume.
    """
    holds = {entry.name for entry in out.iterdir() if not entry.name.startswith(".")}
    if holds and CONFIG not in holds:
        raise RunError(f"{out}: this folder is not empty and holds no run; choose another --out.")
    if resume and not holds:
        raise RunError(f"{out}: there is no run to resume; leave --resume out to start one.")
    if holds and not resume:
        kind, hint = (
            ("a finished", "")
            if METRICS in holds
            else ("an unfinished", "add --resume to go on with it, or ")
        )
        raise RunError(f"{out}: holds {kind} run; {hint}choose another --out, or delete it.")
    if resume:
        _check_same(out, config, record)
    return read_metrics(out / METRICS) if METRICS in holds else None


def check_origin(out: Path, origin: Mapping[str, Any], resume: bool) -> None:
    """Check that a run that goes on has the base weights and the package versions that it was started with.

    Args:
        out: The folder.
        origin: ``model_sha256``, a hash of the base model, and ``versions``.
        resume: Whether an unfinished run goes on.

    Raises:
        RunError: Something has changed; it is named.
    """
    before = read_json(out / CONFIG).get(_ORIGIN) if resume else None
    if before is None or before == origin:
        return
    if before.get("versions") != origin["versions"]:
        old, new = before.get("versions", {}), origin["versions"]
        changed = ", ".join(
            f"{name} {old.get(name)} (now {new[name]})" for name in new if old.get(name) != new[name]
        )
        raise RunError(
            f"{out}: was started with {changed}, and would not end with the same bits; bring the versions back, or "
            "choose another --out."
        )
    raise RunError(
        f"{out}: the base model has other weights than when this run was started; bring them back, or choose another "
        "--out."
    )


def data_choice(config: Mapping[str, Any]) -> DataChoice:
    """Return which data a run used, from its config.json."""
    return DataChoice(
        **{field.name: config[field.name] for field in fields(DataChoice) if field.name in config}
    )


def part_images(run: Path, part: str) -> tuple[Example, ...]:
    """Return the images of one part of a run (``train``, ``val`` or ``test``) that are still there, unchanged.

    Raises:
        RunError: config.json or split.json cannot be read.
    """
    return read_split_part(read_json(run / SPLIT), part, data_choice(read_json(run / CONFIG))).images


def start_run(
    out: Path, config: Mapping[str, Any], origin: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Write what will be done into the folder."""
    write_json(out / CONFIG, {**config, _ORIGIN: origin})
    write_json(out / SPLIT, record)


def free_folder(out: Path) -> None:
    """Remove everything that a run writes, for a run that failed before anything was kept to go on from."""
    for name in (
        PREDICTIONS,
        CONFUSION,
        REPORT,
        *CLASSIFIER_FILES,
        SPLIT,
        CONFIG,
    ):  # what makes it a run goes last
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def _check_same(out: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise unless the run in a folder is the one that is asked for."""
    before = read_json(out / CONFIG)
    for name in {**config, **before}:
        if name != _ORIGIN and before.get(name) != config.get(name):
            raise RunError(
                f"{out}: was started with {name} = {before.get(name)}, not {config.get(name)}; resume with the same "
                "settings, or choose another --out."
            )
    if (out / SPLIT).is_file() and read_json(out / SPLIT).get("training_hash") != record["training_hash"]:
        raise RunError(f"{out}: the images have changed since this run was started; choose another --out.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a RUN folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); this is not a whole RUN folder.") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds no JSON object; this is not a whole RUN folder.")
    return content
