"""The settings of the literature that train once and test elsewhere: base-to-new, cross-data-set, domain shift.

What is trained is a RUN folder like any other. Its two towers are then asked about other classes by their names alone:
class features come from the adapted text tower, and the temperature stays the run's. Source: Zhou et al. 2022,
"Conditional Prompt Learning for Vision-Language Models", section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blocklora.classifier import cut_notes, other_classes, prompt_tokens, template_features
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path, write_json
from blocklora.data import SHIFTS, TRAINABLE, DataChoice, Dataset, choose_test, known_benchmark
from blocklora.methods import DEFAULT_PROMPT, METHODS, find_method
from blocklora.report import RunMetrics, metrics_json
from blocklora.run.fit import Progress, chosen_templates, fit_run
from blocklora.run.folder import CONFIG, data_choice, read_json
from blocklora.run.load import LoadedRun, load_towers
from blocklora.run.measure import measure

__all__ = ["AdaptedTowers", "base_to_new", "cross_dataset", "domain_generalization"]


@dataclass(frozen=True)
class _Row:
    """What is known of one test set in the summary of a setting."""

    name: str
    n_test: int
    n_classes: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    zero_shot_accuracy: float
    zero_shot_interval: tuple[float, float]

    @classmethod
    def of(cls, name: str, measured: RunMetrics) -> _Row:
        """Take it from what was measured."""
        facts = measured.evaluation.to_json()
        return cls(name, **{key: facts[key] for key in cls.__dataclass_fields__ if key != "name"})


class AdaptedTowers:
    """Both towers of a finished run, to classify images of other classes.

    Args:
        run: A RUN folder of a method that knows classes by their names.
        device: Where to compute.

    Raises:
        RunError: The folder is no finished run.
        ConfigError: Its method learns the classes themselves, and knows no others.
        ModelError: The base model cannot be loaded.
    """

    def __init__(self, run: Path, *, device: str = "auto") -> None:
        self._loaded, self._clip = load_towers(run, device=device)
        if self._loaded.classifier.text is None:
            _refuse(self._loaded.classifier.method)

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> LoadedRun:
        """Return a classifier of other classes.

        Args:
            class_names: N names, which may repeat.
            templates: Sentences with one ``{}``; the mean of their class features predicts.
        """
        own = self._loaded.classifier
        adapted = self._clip.model if own.adapter is None else own.adapter.get_base_model()
        head = other_classes(own.head, own.text, adapted, self._clip, class_names, templates)
        plain = template_features(self._clip.model, self._clip, class_names, templates)
        other = own.of_other_classes(class_names, templates, head, plain)
        return replace(self._loaded, classifier=other, labels=list(class_names))

    def prompts(self, templates: Sequence[str]) -> list[str]:
        """Return the sentences that class names really stand in: the templates, or learned vectors in their place."""
        text = self._loaded.classifier.text
        if text is None or text.context is None:
            return list(templates)
        n, words = len(text.context), text.words
        more = f", in the place of the first words of '{words}'" if words else ""
        return [f"[{n} learned vectors{more}] {{}}."]

    def cut_notes(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Say whether prompts of classes with learned vectors had to be cut."""
        text = self._loaded.classifier.text
        if text is None or text.context is None:
            return ()
        _, cut = prompt_tokens(self._clip, class_names, text.words, len(text.context))
        return cut_notes(cut, self._clip.context_length)


def base_to_new(
    data: str,
    out: Path | None,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train on the base half of the classes; test on it, and on the new half by its class names.

    Args:
        data: As for ``fit_run``.
        out: The folder to make: ``base/`` is the run, ``new.json`` the other half, ``summary.json`` the summary. None
            is ``runs/DATA-base-to-new-METHOD-SHOTS-SEED``.
        progress: The progress callback.
        **settings: The other arguments of ``fit_run``.

    Returns:
        ``results`` of base and new, and their ``harmonic_mean`` with and without the adapter.

    Raises:
        BlockloraError: As ``fit_run``; and the method cannot recognise classes that it has not seen.
    """
    _check_method(settings)
    out = user_path(out) if out else _default_out(data, "base-to-new", settings)
    run, base = fit_run(data, out / "base", classes="base", progress=progress, **settings)
    config = read_json(run / CONFIG)
    choice = replace(data_choice(config), classes="new")
    row = _measured_row(
        out / "new.json", AdaptedTowers(run, device=config["device"]), choice, config, settings, progress
    )
    rows = [_Row.of("base", base), replace(row, name="new")]
    means = {
        "harmonic_mean": _harmonic_mean(*(row.accuracy for row in rows)),
        "harmonic_mean_zero_shot": _harmonic_mean(*(row.zero_shot_accuracy for row in rows)),
    }
    return _summary(out, "base-to-new", base, rows, means)


def cross_dataset(
    data: str, out: Path | None, *, to: Sequence[str] = (), progress: Progress | None = None, **settings: Any
) -> dict[str, Any]:
    """Train on one data set; test on others by their class names.

    Args:
        data: The source, as for ``fit_run``.
        out: The folder to make: ``source/`` is the run, ``NAME.json`` a target, ``summary.json`` the summary. None is
            ``runs/DATA-cross-dataset-METHOD-SHOTS-SEED``.
        to: Targets; none means the others of the eleven.
        progress: The progress callback.
        **settings: The other arguments of ``fit_run``.

    Returns:
        ``results`` of the source and of every target, and the ``mean`` over the targets.

    Raises:
        BlockloraError: As ``fit_run``, also for a target; it is found before training starts.
    """
    others = [name for name in TRAINABLE if name != known_benchmark(data).name] if not to else list(to)
    return _transfer("cross-dataset", data, out, others, progress, settings)


def domain_generalization(
    data: str, out: Path | None, *, to: Sequence[str] = (), progress: Progress | None = None, **settings: Any
) -> dict[str, Any]:
    """Train on ImageNet; test on ImageNetV2, -Sketch, -A and -R (the last two among 200 classes).

    Args and the rest are those of ``cross_dataset``.
    """
    return _transfer("domain-generalization", data, out, list(to) or list(SHIFTS), progress, settings)


def _transfer(
    setting: str,
    data: str,
    out: Path | None,
    targets: Sequence[str],
    progress: Progress | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Train on a source and test on targets."""
    _check_method(settings)
    choices = {
        name: DataChoice(name, settings.get("root"), settings.get("protocol", "coop")) for name in targets
    }
    for choice in choices.values():
        choose_test(choice, 0)  # whatever is missing is found before training
    out = user_path(out) if out else _default_out(data, setting, settings)
    run, source = fit_run(data, out / "source", progress=progress, **settings)
    config = read_json(run / CONFIG)
    towers = AdaptedTowers(run, device=config["device"])
    rows = [_Row.of(str(source.dataset), source)]
    for name, choice in choices.items():
        path = out / f"{Path(name).name}.json"
        rows.append(_measured_row(path, towers, choice, config, settings, progress))
    means = {
        "mean": sum(row.accuracy for row in rows[1:]) / len(rows[1:]),
        "mean_zero_shot": sum(row.zero_shot_accuracy for row in rows[1:]) / len(rows[1:]),
    }
    return _summary(out, setting, source, rows, means)


def _measured_row(
    path: Path,
    towers: AdaptedTowers,
    choice: DataChoice,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> _Row:
    """Measure on the test part of a data set, among its own classes, and write that down."""
    dataset: Dataset = choose_test(choice, config["seed"])
    given, averaged = chosen_templates(settings.get("prompt"), settings.get("prompts"))
    own = DEFAULT_PROMPT if choice.protocol == "clip-lora" else dataset.prompt
    templates = averaged or (given or own,)
    loaded = towers.classifier(dataset.class_names, templates)
    measured = measure(loaded, dataset.name, dataset.test, progress)
    notes = (*dataset.notes, *towers.cut_notes(dataset.class_names))
    measured = replace(measured, dataset=dataset.name, notes=notes)
    prompts = {"prompts": towers.prompts(templates), "zero_shot_prompts": list(templates)}
    write_json(path, metrics_json(measured) | prompts)
    return _Row.of(dataset.name, measured)


def _summary(
    out: Path, setting: str, trained: RunMetrics, rows: Sequence[_Row], means: Mapping[str, float]
) -> dict[str, Any]:
    """Write and return what a setting came to."""
    kept = ("method", "model", "shots", "seed", "protocol", "prompt", "ensemble", "selection", "selected_by")
    facts = metrics_json(trained)
    summary = {"setting": setting, "results": [asdict(row) for row in rows], **means}
    summary |= {key: facts[key] for key in kept} | {"notes": facts["notes"], "folder": str(out)}
    write_json(out / "summary.json", summary)
    return summary


def _harmonic_mean(base: float, new: float) -> float:
    return 2 * base * new / (base + new) if base + new else 0.0


def _check_method(settings: Mapping[str, Any]) -> None:
    """Raise if a method knows the classes that it saw and no others."""
    method = settings.get("method", "block-lora")
    if not find_method(method).open:
        _refuse(method)


def _refuse(method: str) -> None:
    raise ConfigError(
        f"method '{method}': learns the classes that it saw and knows no others; expected one of "
        f"{', '.join(name for name, other in METHODS.items() if other.open)}."
    )


def _default_out(data: str, setting: str, settings: Mapping[str, Any]) -> Path:
    """Return where a setting goes when nobody says."""
    shots = settings.get("shots")
    name = f"{Path(data).stem}-{setting}-{settings.get('method', 'block-lora')}"
    return Path("runs") / f"{name}-{'all' if shots is None else f'{shots}shot'}-seed{settings.get('seed', 0)}"
