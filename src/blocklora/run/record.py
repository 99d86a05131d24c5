"""What a run was and did, in words and numbers: its config.json, and the part of metrics.json that is no measure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from blocklora.classifier.save import versions
from blocklora.core.device import peak_memory_bytes
from blocklora.data import DataChoice, Dataset, FewShotSplit, leaks
from blocklora.estimator import FewShotClassifier
from blocklora.methods import Fitted, settings_json
from blocklora.methods.prepare import Prepared

__all__ = ["config_json", "what_was_done"]


def what_was_done(
    dataset: Dataset,
    split: FewShotSplit,
    prepared: Prepared,
    classifier: FewShotClassifier,
    fitted: Fitted,
    measured: dict[str, Any],
    config: dict[str, Any],
) -> dict[str, Any]:
    """Return everything a reader needs to judge the figures."""
    bad = [{"image": item.image, "reason": item.reason} for item in classifier.unreadable_]
    selection = fitted.selection | {
        "temperature": f"fitted to {len(prepared.val)} validation pictures"
        if prepared.val
        else "1, not fitted: no validation pictures",
        "test pictures": "looked at once, after training had ended; nothing was chosen by them",
    }
    training = fitted.training
    return {
        "method": classifier.method,
        "model": classifier.model,
        "dataset": dataset.name,
        "prompt": classifier.prompt,
        "ensemble": list(classifier.ensemble),
        "protocol": config["protocol"],
        "index": config["index"],
        "classes": config["classes"],
        "shots": classifier.shots,
        "seed": classifier.seed,
        "n_train": len(prepared.task.train),
        "n_val": len(prepared.val),
        "trainable_parameters": fitted.trainable_parameters,
        "total_parameters": sum(p.numel() for p in fitted.model.parameters()),
        "train_seconds": classifier.seconds_,
        "peak_memory_bytes": peak_memory_bytes(classifier.device),
        "device": str(classifier.device),
        "precision": classifier.precision,
        "engine": fitted.engine,
        "history": training.history() if training else [],
        "selection": selection,
        "selected_by": _selected_by(config, fitted, bool(prepared.val)),
        "notes": [
            *dataset.notes,
            *classifier.notes_,
            *fitted.notes,
            *_leak_notes(split),
            *_mirror_notes(dataset, classifier),
        ],
        "unreadable": bad + measured["unreadable"],
        "files": {
            part: [example.image for example in getattr(split, part)] for part in ("train", "val", "test")
        },
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _selected_by(config: dict[str, Any], fitted: Fitted, has_val: bool) -> dict[str, str]:
    """Return how each setting and the kept step were chosen: "fixed" beforehand, or by "validation" pictures.

    There is no third way: the test pictures were sealed while anything could be chosen. A method says in words how it
    chose; where validation pictures chose, the words name them and do not say "fixed".
    """
    by_words = {}
    for names, words in fitted.selection.items():
        how = "validation" if "validation pictures" in words and "fixed" not in words else "fixed"
        for name in names.split(", "):  # "alpha, beta"
            by_words[name.lower() if name.lower() in config else name] = how
    fixed = dict.fromkeys([*config, "kept step"], "fixed")
    return fixed | by_words | {"temperature": "validation" if has_val else "fixed"}


def _leak_notes(split: FewShotSplit) -> list[str]:
    """Name test pictures that were trained on, byte for byte."""
    pairs = leaks(split)
    if not pairs:
        return []
    trained, tested = pairs[0]
    return [
        f"{len(pairs)} test pictures are identical, byte for byte, to training or validation pictures, e.g. "
        f"{tested} and {trained}: the accuracy is flattered by them."
    ]


def _mirror_notes(dataset: Dataset, classifier: FewShotClassifier) -> list[str]:
    """Say that training pictures were mirrored, where nobody asked for it."""
    if getattr(classifier.options, "augment", "none") or not dataset.flip:
        return []
    return [
        "training pictures were mirrored half of the time; where a mirror image is another class (digits, letters, "
        "signs, left and right), fit again with --augment crop"
    ]


def config_json(choice: DataChoice, classifier: FewShotClassifier) -> dict[str, Any]:
    """Return every setting of a run, resolved: what config.json holds."""
    return {
        **choice.to_json(),
        "model": classifier.model,
        "method": classifier.method,
        "shots": classifier.shots,
        "seed": classifier.seed,
        "prompt": classifier.prompt,
        "ensemble": list(classifier.ensemble),
        "device": str(classifier.device),
        "precision": classifier.precision,
        **settings_json(classifier.options),
    }
