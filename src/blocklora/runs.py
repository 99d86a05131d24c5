"""One run from a data set to a RUN folder: sample, fit, and only then look at the test pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blocklora.classifier import FewShotClassifier
from blocklora.data import (
    Dataset,
    Example,
    FewShotSplit,
    few_shot,
    leaks,
    load_dataset,
    open_image,
    split_record,
)
from blocklora.errors import DataError, ImageError
from blocklora.files import write_json
from blocklora.methods import Fitted
from blocklora.metrics import evaluate
from blocklora.prepared import Prepared
from blocklora.report import write_report
from blocklora.run_folder import CHECKPOINT, CONFIG, METRICS, REPORT, SPLIT, check_run, read_json, start_run
from blocklora.saved import versions
from blocklora.training import Checkpoint, peak_memory_bytes

__all__ = ["Progress", "evaluate_run", "fit_run"]

_MISTAKES = 24


class Progress(Protocol):
    """Who is told how far a run has come."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        ...

    def encoded(self, done: int, total: int) -> None:
        """Test pictures have been encoded."""
        ...


def fit_run(
    data: str,
    out: Path | None,
    *,
    prompt: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Path, dict[str, Any]]:
    """Fit a classifier to a data set and measure it on the test pictures, once.

    Args:
        data: A folder, a table, or a bundled task's name.
        out: The RUN folder to make; None is ``runs/DATA-METHOD-SHOTS-SEED``.
        prompt: The sentence a class name stands in; None is the data set's own.
        resume: Go on with the unfinished run in ``out``.
        progress: Who is told how far it has come.
        **settings: The arguments of ``FewShotClassifier``.

    Returns:
        The RUN folder, and its metrics.

    Raises:
        BlockloraError: Anything about the data, the model, the options or the folder is not as expected.
        KeyboardInterrupt: Ctrl-C; with ``resume`` the run goes on from where it was.
    """
    classifier = FewShotClassifier(prompt=prompt or "{}", **settings)
    dataset = load_dataset(data, seed=classifier.seed)
    classifier.prompt = prompt or dataset.prompt
    split = few_shot(dataset, classifier.shots, classifier.seed)
    config = _config(data, classifier)
    record = split_record(split, dataset.class_names)
    out = out or _default_out(dataset.name, classifier)
    finished = check_run(out, config, record, resume)
    if finished:
        return out, finished
    prepared = classifier.prepare(dataset, split)
    start_run(out, config, record)
    fingerprint = hashlib.sha256(json.dumps([config, record["hash"]], sort_keys=True).encode()).hexdigest()
    checkpoint = Checkpoint(out / CHECKPOINT, fingerprint)
    fitted = classifier.train(prepared, checkpoint=checkpoint, on_step=progress.step if progress else None)
    metrics = _measure(classifier, dataset, split, progress)
    metrics = metrics | _what_was_done(dataset, split, prepared, classifier, fitted, metrics)
    classifier.save(out)
    _finish(out, metrics, {e.image: e for e in split.test})
    checkpoint.remove()
    return out, metrics


def evaluate_run(
    run: Path, data: str | None = None, *, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a finished run again: on its own test pictures, or on all pictures of another data set.

    Args:
        run: A RUN folder.
        data: A data set with (some of) the same classes; its test part if it has one, else all of it.
        device: Where to compute.
        progress: Who is told how far it has come.

    Raises:
        RunError: The folder is not a finished run.
        DataError: The data set has a class that the run does not know, or the run's pictures are gone.
    """
    classifier = FewShotClassifier.load(run, device=device)
    config, record = read_json(run / CONFIG), read_json(run / SPLIT)
    if data is None:
        dataset = load_dataset(config["data"], seed=config["seed"])
        names = {item["image"] for item in record["test"]}
        test = tuple(example for example in dataset.test if example.image in names)
        if len(test) != len(names):
            raise DataError(
                f"{config['data']}: {len(names) - len(test)} of the run's {len(names)} test pictures are no longer "
                "there; put them back, or name another data set with --data."
            )
    else:
        dataset = load_dataset(data)
        test = (*dataset.train, *dataset.val, *dataset.test) if dataset.held_out else dataset.test
    test = _relabel(test, dataset, tuple(classifier.classes_.tolist()))
    split = FewShotSplit(train=(), val=(), test=test)
    metrics = _measure(classifier, dataset, split, progress)
    return metrics | {"run": str(run), "dataset": dataset.name, "notes": list(dataset.notes)}


def _measure(
    classifier: FewShotClassifier, dataset: Dataset, split: FewShotSplit, progress: Progress | None
) -> dict[str, Any]:
    """Encode the test pictures once, with and without the adapter, and compute all metrics."""
    total = len(split.test)
    encoded = classifier.encode(
        [(example.image, example.source) for example in split.test],
        zero_shot=True,
        on_batch=(lambda done: progress.encoded(done, total)) if progress else None,
    )
    if not encoded.kept:
        raise DataError(f"{dataset.name}: none of the {total} test pictures can be read.")
    kept = [split.test[index] for index in encoded.kept]
    labels = np.array([example.label for example in kept])
    probabilities = classifier.fitted.probabilities(encoded.features[:, 0])
    zero_shot = classifier.fitted.zero_shot_labels(encoded.features[:, 1])
    names = [str(name) for name in classifier.classes_]
    return evaluate(probabilities, labels, names, zero_shot) | {
        "temperature": classifier.temperature_,
        "mistakes": _mistakes(kept, labels, probabilities, names),
        "unreadable": [{"image": bad.image, "reason": bad.reason} for bad in encoded.unreadable],
    }


def _mistakes(
    examples: Sequence[Example],
    labels: NDArray[Any],
    probabilities: NDArray[np.float64],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the wrongly classified pictures, most confident first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    rows = []
    for place in worst.tolist():
        top = np.argsort(-probabilities[place], kind="stable")[:3].tolist()
        rows.append(
            {
                "image": examples[place].image,
                "label": names[labels[place]],
                "predicted": names[predicted[place]],
                "top": [[names[label], float(probabilities[place, label])] for label in top],
            }
        )
    return rows


def _what_was_done(
    dataset: Dataset,
    split: FewShotSplit,
    prepared: Prepared,
    classifier: FewShotClassifier,
    fitted: Fitted,
    measured: dict[str, Any],
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
        "shots": classifier.shots,
        "seed": classifier.seed,
        "n_train": len(prepared.task.train),
        "n_val": len(prepared.val),
        "trainable_parameters": fitted.trainable_parameters,
        "total_parameters": sum(p.numel() for p in fitted.model.parameters()),
        "train_seconds": training.seconds if training else 0.0,
        "peak_memory_bytes": peak_memory_bytes(classifier.device),
        "device": str(classifier.device),
        "precision": classifier.precision,
        "history": training.history() if training else [],
        "selection": selection,
        "notes": [
            *dataset.notes,
            *classifier.notes_,
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
    if classifier.options.augment or not dataset.flip or classifier.method == "zero-shot":
        return []
    return [
        "training pictures were mirrored half of the time; where a mirror image is another class (digits, letters, "
        "signs, left and right), fit again with --augment crop"
    ]


def _config(data: str, classifier: FewShotClassifier) -> dict[str, Any]:
    """Return every setting of a run, resolved: what config.json holds."""
    path = Path(data).expanduser()
    return {
        "data": str(path.resolve()) if path.exists() else data,
        "model": classifier.model,
        "method": classifier.method,
        "shots": classifier.shots,
        "seed": classifier.seed,
        "prompt": classifier.prompt,
        "device": str(classifier.device),
        "precision": classifier.precision,
        **classifier.options.to_json(),
    }


def _default_out(name: str, classifier: FewShotClassifier) -> Path:
    """Return where a run goes when nobody says."""
    shots = "all" if classifier.shots is None else f"{classifier.shots}shot"
    return Path("runs") / f"{Path(name).stem}-{classifier.method}-{shots}-seed{classifier.seed}"


def _finish(out: Path, metrics: dict[str, Any], examples: dict[str, Example]) -> None:
    """Write the report, and metrics.json as the very last."""

    def open_picture(image: str) -> Image.Image | None:
        try:
            return open_image(examples[image].source)
        except (KeyError, ImageError):
            return None

    write_report(metrics, out / REPORT, open_picture)
    write_json(out / METRICS, metrics)


def _relabel(test: Sequence[Example], dataset: Dataset, names: tuple[Any, ...]) -> tuple[Example, ...]:
    """Give the pictures of a data set the labels of a classifier, by class name."""
    known = {str(name): label for label, name in enumerate(names)}
    unknown = [
        dataset.class_names[example.label]
        for example in test
        if dataset.class_names[example.label] not in known
    ]
    if unknown:
        raise DataError(
            f"{dataset.name}: class '{unknown[0]}' is not one that the run knows: {', '.join(list(known)[:10])}"
            f"{', ...' if len(known) > 10 else ''}."
        )
    return tuple(
        Example(example.image, known[dataset.class_names[example.label]], example.source) for example in test
    )
