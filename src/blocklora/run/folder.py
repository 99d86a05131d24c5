"""The RUN folder: what is in it, and whether a run may start, go on, or is finished.

It fills in this order: config.json and split.json (what will be done), checkpoint.safetensors (while training),
adapter/, class_features.safetensors and classifier.json (what was learned), split.json again, now with the test
pictures, report.html, and last metrics.json: a folder that has it is finished.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blocklora.core.errors import RunError
from blocklora.core.files import write_json

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "METRICS",
    "REPORT",
    "SPLIT",
    "check_run",
    "forget_start",
    "read_json",
    "start_run",
]

CONFIG, SPLIT, METRICS, REPORT = "config.json", "split.json", "metrics.json", "report.html"
CHECKPOINT = "checkpoint.safetensors"


def check_run(
    out: Path, config: dict[str, Any], record: dict[str, Any], resume: bool
) -> dict[str, Any] | None:
    """Check that a run may start in a folder, or go on there; nothing is written.

    Args:
        out: The folder.
        config: Every setting, as config.json will hold it.
        record: The training and validation pictures, as split.json will hold them.
        resume: Whether an unfinished run is to go on.

    Returns:
        The metrics if the run is finished, else None.

    Raises:
        RunError: The folder holds something else, or another run, or no run to resume.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: this is a file; --out takes a folder to make.")
    holds = (
        {entry.name for entry in out.iterdir() if not entry.name.startswith(".")} if out.exists() else set()
    )
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
    return read_json(out / METRICS) if METRICS in holds else None


def start_run(out: Path, config: dict[str, Any], record: dict[str, Any]) -> None:
    """Make the folder, and write what will be done."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / CONFIG, config)
    write_json(out / SPLIT, record)


def forget_start(out: Path) -> None:
    """Take back what ``start_run`` wrote, for a run that failed before anything was learned."""
    for name in (CONFIG, SPLIT):
        (out / name).unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()


def _check_same(out: Path, config: dict[str, Any], record: dict[str, Any]) -> None:
    """Raise unless the run in a folder is the one that is asked for."""
    before = read_json(out / CONFIG)
    changed = [name for name in config if before.get(name) != config[name]]
    if changed:
        name = changed[0]
        raise RunError(
            f"{out}: was started with {name} = {before.get(name)}, not {config[name]}; resume with the same "
            "settings, or choose another --out."
        )
    if (out / SPLIT).is_file() and read_json(out / SPLIT).get("training_hash") != record["training_hash"]:
        raise RunError(f"{out}: the pictures have changed since this run was started; choose another --out.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a RUN folder."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); this is not a whole RUN folder.") from error
    return content
