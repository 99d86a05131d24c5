"""What a run was and did: its config.json, and its metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from blocklora.core.choices import Choice
from blocklora.core.device import peak_memory_bytes, resolve_device, usable_precision
from blocklora.core.fingerprint import recorded_versions
from blocklora.data import DECODING, DataChoice, Dataset, FewShotSplit, leaks
from blocklora.methods import Fit, FitConfig, Prepared, fit_config, model_defaults, settings_json
from blocklora.report import ConfusedPair, PartFiles, RunMetrics, confused_cells, leak_note

__all__ = ["config_from_json", "config_json", "run_metrics"]

_SHOWN = 2  # training images of a class beside a pair of confused classes


def config_json(choice: DataChoice, config: FitConfig) -> dict[str, Any]:
    """Return every setting of a run, resolved: what config.json holds."""
    return {**choice.to_json(), **config.to_json()}


def config_from_json(
    facts: Mapping[str, Any], device: str, model: str | None, time_limit: str | float | None
) -> FitConfig:
    """Return the settings of a run again, for this machine.

    Args:
        facts: What its config.json holds.
        device: Where to compute; the precision is the run's own, where the device has it.
        model: Where the base model is now, if it has moved.
        time_limit: A new one; that of the run does not count.

    Raises:
        ConfigError: A setting is not known, or cannot work here.
    """
    beside = {field.name for field in fields(DataChoice)} | {"origin", "added_class", "time_limit"}
    given = {name: value for name, value in facts.items() if name not in beside}
    where = resolve_device(device)
    given |= {"device": str(where), "precision": usable_precision(str(given["precision"]), where)}
    if model:
        given |= {"model": model, "revision": None}
    return fit_config(**given, time_limit=time_limit)


def run_metrics(
    measured: RunMetrics,
    choice: DataChoice,
    dataset: Dataset,
    split: FewShotSplit,
    prepared: Prepared,
    config: FitConfig,
    fit: Fit,
) -> RunMetrics:
    """Add to the measured figures everything that a reader needs to judge them."""
    training, engine = fit.result.training, fit.result.engine
    used = (
        {}
        if engine is None
        else {"engine": engine.engine, "why_not_lean": engine.why_not_lean, **engine.memory}
    )
    if fit.compute.ranks.count > 1:
        used["processes"] = fit.compute.ranks.count
    return replace(
        measured,
        method=config.method,
        model=prepared.clip.model_id,
        dataset=dataset.name,
        prompt=config.prompt,
        ensemble=config.ensemble,
        protocol=choice.protocol,
        index=choice.index,
        classes=choice.classes,
        shots=config.shots,
        seed=config.seed,
        n_train=len(prepared.task.train),
        n_val=len(prepared.task.val),
        trainable_parameters=fit.result.trainable_parameters,
        total_parameters=_total_parameters(fit),
        train_seconds=fit.seconds,
        peak_memory_bytes=peak_memory_bytes(config.device),
        device=str(config.device),
        precision=config.precision,
        engine=used,
        confused=_beside_training_images(measured, prepared),
        history=tuple(training.history()) if training else (),
        choices=_choices(choice, config, fit),
        candidates=fit.result.candidates,
        notes=(
            *dataset.notes,
            *prepared.notes,
            *fit.result.notes,
            *_leak_notes(split),
            *_mirror_notes(dataset, config),
        ),
        unreadable=(*prepared.unreadable, *measured.unreadable),
        files={
            part: PartFiles.of([example.image for example in getattr(split, part)])
            for part in ("train", "val", "test")
        },
        versions=recorded_versions() | {"decoding": DECODING},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _beside_training_images(measured: RunMetrics, prepared: Prepared) -> tuple[ConfusedPair, ...]:
    """Add some training images of both classes to each pair of confused classes."""
    images = defaultdict[int, list[str]](list)
    for example in prepared.task.train:
        images[example.label].append(example.image)
    cells = confused_cells(measured.evaluation)[: len(measured.confused)]
    return tuple(
        replace(pair, of_label=tuple(images[label][:_SHOWN]), of_predicted=tuple(images[other][:_SHOWN]))
        for pair, (label, other, _) in zip(measured.confused, cells, strict=True)
    )


def _total_parameters(fit: Fit) -> int:
    """Count all parameters of the model, those of an adapter among them."""
    model = fit.classifier.adapter or fit.classifier.base.model
    return sum(parameter.numel() for parameter in model.parameters())


def _choices(choice: DataChoice, config: FitConfig, fit: Fit) -> dict[str, Choice]:
    """Return how every setting and the kept step were chosen; what nothing chose was fixed beforehand."""
    run = {"shots": config.shots, "seed": config.seed, "prompt": config.prompt, "protocol": choice.protocol}
    fixed = {name: Choice(value, "fixed", "given, or the default") for name, value in run.items()}
    for name, value in settings_json(config.settings).items():
        scalars = tuple(value) if isinstance(value, list) else value
        fixed[name] = Choice(scalars, "fixed", _reason(config, name))
    given = {name for name in config.given if getattr(config.settings, name) is not None}
    return fixed | {name: one for name, one in fit.choices.items() if name not in given}


def _reason(config: FitConfig, name: str) -> str:
    """Say where the value of a setting comes from that nothing chose."""
    if name in config.given:
        return "given"
    own = model_defaults(config.method, config.model)
    return "the default for the bundled model" if name in own else "the method's default"


def _leak_notes(split: FewShotSplit) -> list[str]:
    """Name test images that were trained on, byte for byte."""
    note = leak_note(leaks(split))
    return [note] if note else []


def _mirror_notes(dataset: Dataset, config: FitConfig) -> list[str]:
    """Say that training images were mirrored, where nobody asked for it."""
    if getattr(config.settings, "augment", "none") or not dataset.flip:
        return []
    return [
        "training images were mirrored half of the time; where a mirror image is another class (digits, letters, "
        "signs, left and right), fit again with --augment crop"
    ]
