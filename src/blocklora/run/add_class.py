"""A finished run becomes a new one that knows one class more; the old one is only read.

Without training nothing but the head of the classifier is extended, and the old training images need not be there. With
training the run is fitted again to its own images and the new ones; an adapter goes on from the old one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from blocklora.classifier import (
    Classifier,
    ClassifierRecord,
    at_once,
    read_both_towers,
    write_classifier,
)
from blocklora.core.deadline import Deadline
from blocklora.core.device import Compute
from blocklora.core.errors import DataError, RunError
from blocklora.core.files import user_path
from blocklora.core.fingerprint import numeric_versions, recorded_versions
from blocklora.core.words import count
from blocklora.data import (
    DECODING,
    DataChoice,
    Dataset,
    Example,
    FewShotSplit,
    NewClass,
    check_new_name,
    draw_new_class,
    extended_record,
    read_dataset,
    read_split_part,
)
from blocklora.methods import (
    FitConfig,
    Prepared,
    check_extends,
    find_method,
    prepared_for,
    with_new_class,
)
from blocklora.report import AddedClass, HowAdded, PartFiles, RunMetrics, read_metrics
from blocklora.run.fit import claimed, run_in, write_results
from blocklora.run.folder import (
    CONFIG,
    METRICS,
    PREDICTIONS,
    SPLIT,
    check_run,
    data_choice,
    free_folder,
    read_json,
    start_run,
)
from blocklora.run.how import Before, HowRun, Progress
from blocklora.run.load import LoadedRun
from blocklora.run.measure import measure
from blocklora.run.record import config_from_json

__all__ = ["add_class"]

_ADAPTER = Path("adapter") / "adapter_model.safetensors"


@dataclass(frozen=True)
class _Old:
    """The run that a class is added to: its folder and what stands in it."""

    folder: Path
    config: Mapping[str, Any]
    split: Mapping[str, Any]
    metrics: RunMetrics
    record: ClassifierRecord

    @property
    def choice(self) -> DataChoice:
        """Its data."""
        return data_choice(self.config)

    def part(self, name: str) -> tuple[Example, ...]:
        """Return the images of a part, all of which must be there as they were."""
        found = read_split_part(self.split, name, self.choice)
        if found.problems:
            total = len(found.images) + len(found.problems)
            raise DataError(
                f"{count(len(found.problems), 'image')} of the {total} images of the part '{name}' of {self.folder} "
                f"cannot be used: {found.problems[0].reason}."
            )
        return found.images


def add_class(
    run: Path,
    name: str,
    folder: Path,
    out: Path | None = None,
    *,
    train: bool = False,
    time_limit: str | float | None = None,
    resume: bool = False,
    device: str = "auto",
    model: str | None = None,
    progress: Progress | None = None,
    began: float | None = None,
) -> tuple[Path, RunMetrics]:
    """Add a class to a finished run, and measure the old and the new classes.

    Args:
        run: A RUN folder, which is only read. Its validation and test images must be there.
        name: Of the class.
        folder: Images of the class; a quarter is held out to test it.
        out: The RUN folder to make; None is ``RUN-with-NAME``.
        train: Fit again to the run's own training images and the new ones; an adapter goes on from the old one.
        time_limit: The time in which all is to be done, where it is trained.
        resume: Go on with training that was interrupted in ``out``.
        device: Where to compute.
        model: Where the base model is now, if it has moved.
        progress: The progress callback.
        began: When the time limit began; None is now.

    Returns:
        The new RUN folder and its metrics; ``added_class`` of these compares it with the old run.

    Raises:
        DataError: The name or the images cannot be used, or images of the run are missing.
        ConfigError: The method takes no further class without training.
        RunError: The folder is no finished run, its base model has other weights now, or ``out`` is in use.
        ModelError: The base model cannot be loaded.
    """
    began, old, folder = began or time.monotonic(), _read(user_path(run)), user_path(folder)
    record = old.record
    name = check_new_name(name, [*record.class_names, *record.found_names])
    config = config_from_json(old.config, device, model, time_limit if train else None)
    if not train:
        check_extends(config.method)
    new = draw_new_class(
        name,
        folder,
        old.split,
        old.choice,
        label=len(record.class_names),
        shots=config.shots,
        seed=config.seed,
    )
    place = _place(old.folder, name, out)
    with claimed(place):
        if train:
            how = HowRun(resume, progress, deadline=Deadline.of(config.time_limit, began))
            return place, _trained(place, old, new, config, how)
        return place, _extended(place, old, new, config, model, progress)


def _trained(out: Path, old: _Old, new: NewClass, config: FitConfig, how: HowRun) -> RunMetrics:
    """Fit again to the old images and the new ones."""
    parts = {part: old.part(part) for part in ("train", "val", "test")}
    split = FewShotSplit(
        (*parts["train"], *new.train), (*parts["val"], *new.val), (*parts["test"], *new.test), new.notes
    )
    flip = read_dataset(old.choice.data, old.choice.root, training=False).flip
    dataset = replace(_dataset(old, new), flip=flip, train=split.train, val=split.val, test=split.test)
    start = None
    if old.record.text_side is not None and (old.folder / _ADAPTER).is_file():
        start = load_file(old.folder / _ADAPTER)
    told = partial(_told, old=old, new=new, how="training")
    before = Before(_facts(old, new, True), old.config.get("origin", {}).get("model_sha256"), start, told)
    return run_in(out, old.choice, config, dataset, split, how, before)


def _extended(
    out: Path, old: _Old, new: NewClass, config: FitConfig, model: str | None, progress: Progress | None
) -> RunMetrics:
    """Extend the classifier, measure it, and write the new run."""
    val, test = (*old.part("val"), *new.val), (*old.part("test"), *new.test)
    record = extended_record(
        old.split,
        {"train": new.train, "val": new.val, "test": new.test},
        [*old.record.class_names, new.name],
    )
    described = {**old.config, "added_class": _facts(old, new, False)}
    check_run(out, described, record, resume=False)
    classifier, clip = read_both_towers(old.folder, device=config.device, model=model)
    compute, size = Compute(config.device, config.precision), at_once(config.device)
    dataset = _dataset(old, new)
    prepared = prepared_for(clip, config, dataset, _known(classifier, new), val, new.notes, new.unreadable)
    classifier, choices, trainable = with_new_class(prepared, config, classifier, compute, size)
    origin = {"model_sha256": clip.model_sha256, "versions": numeric_versions()}
    try:
        start_run(out, {name: value for name, value in described.items() if name != "origin"}, origin, record)
        labels = [*old.record.labels, new.name]
        loaded = LoadedRun(classifier, labels, dataset.found_names, compute, size)
        measured = measure(loaded, dataset.name, test, progress, predictions=out / PREDICTIONS).metrics
        metrics = _metrics(measured, old, new, config, prepared, choices, trainable, record)
        parameters, versions = old.record.parameters, recorded_versions()
        write_classifier(out, classifier, labels, parameters, versions, dataset.found_names)
        write_results(out, record, metrics, [*new.train, *test])
    except BaseException:
        free_folder(out)
        raise
    return metrics


def _read(run: Path) -> _Old:
    """Read what a finished run says of itself."""
    record = ClassifierRecord.read(run)
    if not (run / METRICS).is_file():
        raise RunError(
            f"{run}: holds no {METRICS}, so it is no finished RUN folder; name one that 'blocklora fit' has written."
        )
    metrics = read_metrics(run / METRICS)
    return _Old(run, read_json(run / CONFIG), read_json(run / SPLIT), metrics, record)


def _dataset(old: _Old, new: NewClass) -> Dataset:
    """Return the classes of the new run."""
    found = (*old.record.found_names, new.name) if old.record.found_names else ()
    name = old.metrics.dataset or Path(old.choice.data).name
    return Dataset(name, (*old.record.class_names, new.name), (), (), (), found_names=found)


def _known(classifier: Classifier, new: NewClass) -> tuple[Example, ...]:
    """Return the training images that the classifier keeps features of, which are not opened, and the new ones."""
    known = classifier.evidence.training
    if known is None:
        return new.train
    labels = np.asarray(known.labels).tolist()
    old = [Example(image, label, Path(image)) for image, label in zip(known.names, labels, strict=True)]
    return (*old, *new.train)


def _facts(old: _Old, new: NewClass, trained: bool) -> dict[str, Any]:
    """Return what config.json says of where a run came from."""
    return {
        "name": new.name,
        "run": str(old.folder.resolve()),
        "run_created": old.metrics.created,
        "trained": trained,
    }


def _told(metrics: RunMetrics, old: _Old, new: NewClass, how: HowAdded) -> RunMetrics:
    """Add to the metrics of the new run what became of the old one's."""
    was, now = old.metrics.evaluation, metrics.evaluation
    added = AddedClass.of(new.name, str(old.folder.resolve()), how, len(new.train), was, now)
    missing = tuple(bad for bad in new.unreadable if bad not in metrics.unreadable)
    return replace(metrics, added_class=added, unreadable=(*missing, *metrics.unreadable))


def _metrics(
    measured: RunMetrics,
    old: _Old,
    new: NewClass,
    config: FitConfig,
    prepared: Prepared,
    choices: Mapping[str, Any],
    trainable: int | None,
    record: Mapping[str, Any],
) -> RunMetrics:
    """Return the metrics of a run whose head was extended: how it was trained is what the old run says."""
    how: HowAdded = "name" if find_method(config.method).open else "features"
    judged = ("evaluation", "temperature", "confidence", "mistakes", "confused", "unreadable")
    metrics = replace(
        old.metrics,
        **{name: getattr(measured, name) for name in judged},
        n_train=(old.metrics.n_train or 0) + (len(new.train) if how == "features" else 0),
        n_val=len(prepared.task.val),
        trainable_parameters=old.metrics.trainable_parameters if trainable is None else trainable,
        device=str(config.device),
        precision=config.precision,
        choices={**old.metrics.choices, **choices},
        notes=(*prepared.notes, *old.metrics.notes),
        files={
            part: PartFiles.of([item["image"] for item in record[part]]) for part in ("train", "val", "test")
        },
        versions=recorded_versions() | {"decoding": DECODING},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return _told(metrics, old, new, how)


def _place(run: Path, name: str, out: Path | None) -> Path:
    """Return the folder to make, whose name every system takes."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    place = user_path(out) if out else run.with_name(f"{run.name}-with-{plain}")
    if place.resolve() == run.resolve():
        raise RunError(f"{place}: is the run that the class is added to; choose another --out.")
    return place
