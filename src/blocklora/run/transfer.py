"""The settings of the literature that train once and test elsewhere: base-to-new, cross-data-set, domain shift.

What is trained is a RUN folder like any other. Its two towers are then asked about other classes by their names alone:
class features come from the adapted text tower, and the temperature stays the run's. Source: Zhou et al. 2022,
"Conditional Prompt Learning for Vision-Language Models", section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklora.classifier.class_prompts import cut_notes, prompt_tokens
from blocklora.classifier.encode import base_model
from blocklora.classifier.save import ADAPTER, read_classifier, with_adapter
from blocklora.classifier.text_side import other_classes, template_features
from blocklora.clip import load_clip
from blocklora.core.device import resolve_device
from blocklora.core.errors import ConfigError
from blocklora.core.files import write_json
from blocklora.data import SHIFTS, TRAINABLE, DataChoice, Dataset, FewShotSplit, choose_test, known_benchmark
from blocklora.estimator import DEFAULT_PROMPT, FewShotClassifier
from blocklora.methods import CLOSED_METHODS, METHODS
from blocklora.run.fit import Progress, chosen_templates, data_choice, fit_run, measure
from blocklora.run.folder import CONFIG, read_json

__all__ = ["AdaptedTowers", "base_to_new", "cross_dataset", "domain_generalization"]

_ROW = ("n_test", "n_classes", "accuracy", "accuracy_interval", "zero_shot_accuracy", "zero_shot_interval")


class AdaptedTowers:
    """Both towers of a finished run, to classify pictures of other classes.

    Args:
        run: A RUN folder of a method that knows classes by their names.
        device: Where to compute.

    Raises:
        RunError: The folder is no finished run.
        ConfigError: Its method learns the classes themselves, and knows no others.
        ModelError: The base model cannot be loaded.
    """

    def __init__(self, run: Path, *, device: str = "auto") -> None:
        self._saved, _ = read_classifier(run)
        _check_method(self._saved.method)
        self._clip = load_clip(self._saved.model_id, self._saved.revision)
        adapter = run / ADAPTER
        self._model: Any = with_adapter(self._clip.model, adapter) if adapter.is_dir() else self._clip.model
        self._device = device

    def classifier(self, class_names: Sequence[str], templates: Sequence[str]) -> FewShotClassifier:
        """Return a classifier of other classes.

        Args:
            class_names: N names, which may repeat.
            templates: Sentences with one ``{}``; the mean of their class features predicts.
        """
        self._model.to(resolve_device(self._device))
        base = base_model(self._model)
        head = other_classes(self._saved.head, self._saved.text, base, self._clip, class_names, templates)
        with self._model.disable_adapter() if hasattr(self._model, "disable_adapter") else nullcontext():
            plain = template_features(base, self._clip, class_names, templates)
        saved = replace(
            self._saved,
            model=self._model,
            class_names=tuple(class_names),
            prompts=tuple(templates),
            head=head,
            zero_shot_features=plain,
        )
        return FewShotClassifier.of(saved, list(class_names), device=self._device)

    def prompts(self, templates: Sequence[str]) -> list[str]:
        """Return the sentences that class names really stand in: the templates, or learned vectors in their place."""
        text = self._saved.text
        if text is None or text.context is None:
            return list(templates)
        n, words = len(text.context), text.words
        more = f", in the place of the first words of '{words}'" if words else ""
        return [f"[{n} learned vectors{more}] {{}}."]

    def cut_notes(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Say whether prompts of classes with learned vectors had to be cut."""
        text = self._saved.text
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
        progress: Who is told how far it has come.
        **settings: The other arguments of ``fit_run``.

    Returns:
        ``results`` of base and new, and their ``harmonic_mean`` with and without the adapter.

    Raises:
        BlockloraError: As ``fit_run``; and the method cannot recognise classes that it has not seen.
    """
    _check_method(settings.get("method", "block-lora"))
    out = out or _default_out(data, "base-to-new", settings)
    run, base = fit_run(data, out / "base", classes="base", progress=progress, **settings)
    config = read_json(run / CONFIG)
    choice = replace(data_choice(config), classes="new")
    new = _measure_on(AdaptedTowers(run, device=config["device"]), choice, config, settings, progress)
    write_json(out / "new.json", new)
    rows = [_row("base", base), _row("new", new)]
    means = {
        f"harmonic_mean{ending}": _harmonic_mean(*(row[f"{kind}accuracy"] for row in rows))
        for ending, kind in (("", ""), ("_zero_shot", "zero_shot_"))
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
        progress: Who is told how far it has come.
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
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train on a source and test on targets."""
    _check_method(settings.get("method", "block-lora"))
    choices = {
        name: DataChoice(name, settings.get("root"), settings.get("protocol", "coop")) for name in targets
    }
    for choice in choices.values():
        choose_test(choice, 0)  # whatever is missing is found before training
    out = out or _default_out(data, setting, settings)
    run, source = fit_run(data, out / "source", progress=progress, **settings)
    config = read_json(run / CONFIG)
    towers = AdaptedTowers(run, device=config["device"])
    rows = [_row(source["dataset"], source)]
    for name, choice in choices.items():
        measured = _measure_on(towers, choice, config, settings, progress)
        write_json(out / f"{Path(name).name}.json", measured)
        rows.append(_row(measured["dataset"], measured))
    means = {
        f"mean{ending}": sum(row[f"{kind}accuracy"] for row in rows[1:]) / len(rows[1:])
        for ending, kind in (("", ""), ("_zero_shot", "zero_shot_"))
    }
    return _summary(out, setting, source, rows, means)


def _measure_on(
    towers: AdaptedTowers,
    choice: DataChoice,
    config: dict[str, Any],
    settings: dict[str, Any],
    progress: Progress | None,
) -> dict[str, Any]:
    """Measure on the test part of a data set, among its own classes."""
    dataset: Dataset = choose_test(choice, config["seed"])
    given, averaged = chosen_templates(settings.get("prompt"), settings.get("prompts"))
    own = DEFAULT_PROMPT if choice.protocol == "clip-lora" else dataset.prompt
    templates = averaged or (given or own,)
    classifier = towers.classifier(dataset.class_names, templates)
    measured = measure(classifier, dataset, FewShotSplit((), (), dataset.test), progress)
    return measured | {
        "dataset": dataset.name,
        "prompts": towers.prompts(templates),
        "zero_shot_prompts": list(templates),
        "notes": [*dataset.notes, *towers.cut_notes(dataset.class_names)],
    }


def _row(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    return {"name": name} | {key: measured[key] for key in _ROW}


def _summary(
    out: Path, setting: str, trained: dict[str, Any], rows: list[dict[str, Any]], means: dict[str, float]
) -> dict[str, Any]:
    """Write and return what a setting came to."""
    kept = ("method", "model", "shots", "seed", "protocol", "prompt", "ensemble", "selection", "selected_by")
    summary = {"setting": setting, "results": rows, **means} | {key: trained[key] for key in kept}
    summary |= {"notes": trained["notes"], "folder": str(out)}
    write_json(out / "summary.json", summary)
    return summary


def _harmonic_mean(base: float, new: float) -> float:
    return 2 * base * new / (base + new) if base + new else 0.0


def _check_method(method: str) -> None:
    """Raise if a method knows the classes that it saw and no others."""
    if method in CLOSED_METHODS:
        raise ConfigError(
            f"method '{method}': learns the classes that it saw and knows no others; expected one of "
            f"{', '.join(name for name in METHODS if name not in CLOSED_METHODS)}."
        )


def _default_out(data: str, setting: str, settings: dict[str, Any]) -> Path:
    """Return where a setting goes when nobody says."""
    shots = settings.get("shots")
    name = f"{Path(data).stem}-{setting}-{settings.get('method', 'block-lora')}"
    return Path("runs") / f"{name}-{'all' if shots is None else f'{shots}shot'}-seed{settings.get('seed', 0)}"
