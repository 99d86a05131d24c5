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
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.files import user_path, write_json
from blocklora.data import (
    SHIFTS,
    TRAINABLE,
    DataChoice,
    Dataset,
    Example,
    LabelledImages,
    choose_test,
    chosen_templates,
    known_benchmark,
    read_labelled,
)
from blocklora.methods import DEFAULT_PROMPT, METHODS, find_method
from blocklora.report import RunMetrics, metrics_json
from blocklora.run.evaluate import ImagesToMeasure, measure_again, unseen
from blocklora.run.fit import fit_run
from blocklora.run.folder import CONFIG, data_choice, read_json
from blocklora.run.how import Progress
from blocklora.run.load import LoadedRun, load_towers

__all__ = ["AdaptedTowers", "base_to_new", "cross_dataset", "domain_generalization"]

_SUMMARY = "summary.json"


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
        model: Where the base model is now, if it has moved.

    Raises:
        RunError: The folder is no finished run.
        ConfigError: Its method learns the classes themselves, and knows no others.
        ModelError: The base model cannot be loaded.
    """

    def __init__(self, run: Path, *, device: str = "auto", model: str | None = None) -> None:
        self._loaded, self._clip = load_towers(run, device=device, model=model)
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
        head = other_classes(
            own.head, own.text, adapted, self._clip, class_names, templates, engine=own.engine
        )
        plain = template_features(self._clip.model, self._clip, class_names, templates, engine=own.engine)
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
    _check_place(out, "base")
    run, base = fit_run(data, out / "base", classes="base", progress=progress, **settings)
    config = read_json(run / CONFIG)
    new = choose_test(replace(data_choice(config), classes="new"), config["seed"])
    towers = AdaptedTowers(run, device=config["device"])
    measured = _measure(out / "new.json", towers, new, new.test, settings, progress)
    rows = [_Row.of("base", base), _Row.of("new", measured)]
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
    root = settings.get("root")
    found = {name: read_labelled(DataChoice(name, root)) for name in targets}  # what is missing is found now
    files = _files(targets)
    out = user_path(out) if out else _default_out(data, setting, settings)
    _check_place(out, "source")
    run, source = fit_run(data, out / "source", progress=progress, **settings)
    towers = AdaptedTowers(run, device=read_json(run / CONFIG)["device"])
    rows = [_Row.of(str(source.dataset), source)]
    for name, target in found.items():
        test = unseen(run, ImagesToMeasure(target.name, target.images, target.notes))
        target = replace(target, notes=test.notes)
        measured = _measure(out / files[name], towers, target, test.images, settings, progress)
        rows.append(_Row.of(target.name, measured))
    means = {
        "mean": sum(row.accuracy for row in rows[1:]) / len(rows[1:]),
        "mean_zero_shot": sum(row.zero_shot_accuracy for row in rows[1:]) / len(rows[1:]),
    }
    return _summary(out, setting, source, rows, means)


def _measure(
    path: Path,
    towers: AdaptedTowers,
    data: Dataset | LabelledImages,
    images: Sequence[Example],
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> RunMetrics:
    """Measure on images of a data set, among its own classes, and write that down."""
    given, averaged = chosen_templates(settings.get("prompt"), settings.get("prompts"))
    own = DEFAULT_PROMPT if settings.get("protocol") == "clip-lora" else data.prompt
    templates = averaged or (given or own,)
    loaded = towers.classifier(data.class_names, templates)
    notes = (*data.notes, *towers.cut_notes(data.class_names))
    measured = measure_again(loaded, ImagesToMeasure(data.name, images, notes), progress)
    prompts = {"prompts": towers.prompts(templates), "zero_shot_prompts": list(templates)}
    write_json(path, metrics_json(measured) | prompts)
    return measured


def _files(targets: Sequence[str]) -> dict[str, str]:
    """Return the file of each target's result.

    Raises:
        ConfigError: Two targets would be written to one file.
    """
    files = {name: f"{Path(name).name}.json" for name in targets}
    taken = {_SUMMARY: "the summary"}
    for name, file in files.items():
        if file in taken:
            raise ConfigError(
                f"--to: '{name}' and {taken[file]} would both be written to {file}; rename one of the folders."
            )
        taken[file] = f"'{name}'"
    return files


def _check_place(out: Path, part: str) -> None:
    """Raise where a folder holds something that is none of ours."""
    if not out.is_dir() or (out / part).exists():  # a run that is there is checked when it is to go on
        return
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise RunError(f"{out}: this folder is not empty and holds no '{part}'; choose another --out.")


def _summary(
    out: Path, setting: str, trained: RunMetrics, rows: Sequence[_Row], means: Mapping[str, float]
) -> dict[str, Any]:
    """Write and return what a setting came to."""
    kept = ("method", "model", "shots", "seed", "protocol", "prompt", "ensemble", "selection", "selected_by")
    facts = metrics_json(trained)
    notes = [*facts["warnings"], *facts["notes"]]
    summary = {"setting": setting, "results": [asdict(row) for row in rows], **means}
    summary |= {key: facts[key] for key in kept} | {"notes": notes, "folder": str(out)}
    write_json(out / _SUMMARY, summary)
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
