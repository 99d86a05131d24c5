"""One run from a data set to a RUN folder: sample, fit, and only then look at the test images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from blocklora.classifier import NOTHING_KEPT, FeatureStore, write_classifier
from blocklora.core.deadline import Deadline, in_words
from blocklora.core.device import reset_peak_memory
from blocklora.core.errors import ConfigError, ImageError
from blocklora.core.files import claim_folder, user_path, write_json
from blocklora.core.fingerprint import fingerprint, numeric_versions, recorded_versions
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources
from blocklora.data import (
    DataChoice,
    Dataset,
    Example,
    FewShotSplit,
    Half,
    SamplingProtocol,
    choose,
    ensemble,
    open_image,
    seal,
    split_record,
    training_record,
)
from blocklora.methods import DEFAULT_PROMPT, Fit, FitConfig, check_shares, fit_config, prepare
from blocklora.report import RunMetrics, metrics_from_json, metrics_json, write_metrics, write_report
from blocklora.run.cross_validation import cross_validated
from blocklora.run.fitting import Fitting, Progress
from blocklora.run.folder import (
    CHECKPOINT,
    METRICS,
    PREDICTIONS,
    REFIT,
    REPORT,
    SPLIT,
    check_origin,
    check_run,
    free_folder,
    start_run,
)
from blocklora.run.measure import measure
from blocklora.run.record import config_json, run_metrics
from blocklora.run.refit import fit_to_all, kept_back
from blocklora.training import Checkpoint, OnExpected

__all__ = ["chosen_templates", "fit_run"]


def fit_run(
    data: str,
    out: Path | None,
    *,
    root: str | None = None,
    protocol: SamplingProtocol = "coop",
    index: str | None = None,
    classes: Half | None = None,
    class_names: str | None = None,
    add: Sequence[str] | None = None,
    test: Literal["cross-validation"] | None = None,
    refit: bool = False,
    prompt: str | Sequence[str] | None = None,
    prompts: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    store: FeatureStore = NOTHING_KEPT,
    resources: Resources | None = None,
    on_expected: OnExpected | None = None,
    began: float | None = None,
    ranks: Ranks = ALONE,
    **settings: Any,
) -> tuple[Path, RunMetrics]:
    """Fit to a data set, measure once on test images that are sealed until then, return the RUN folder and its metrics.

    Args:
        data: A folder, a table, ``hf:NAME``, a bundled task's name, or a data set's name with ``root``.
        out: The RUN folder to make; None is ``runs/DATA-METHOD-SHOTS-SEED``.
        root: The folder that holds the folders of the data sets.
        protocol: How the shots are drawn: ``coop`` or ``clip-lora``.
        index: A file that names the images, in the place of sampling.
        classes: The ``base`` or ``new`` half; None is all.
        class_names: A file with other words for the classes.
        add: CSV files with images and labels that train beside the shots.
        test: ``cross-validation`` judges by folds of all images, where the data has no test part; the classifier is
            then fitted to all of them. None: by the test part, or by a quarter that is held out.
        refit: Whether what was measured is then fitted to training, validation and test images together, for the
            classifier that is in the folder.
        prompt: The sentence a class name stands in; of several the first trains, and the mean over all predicts. None
            is the data set's own, or "a photo of a {}." with the protocol clip-lora.
        prompts: A published ensemble that predicts: ``imagenet-7`` or ``imagenet-80``.
        resume: Go on with the unfinished run in ``out``.
        progress: The progress callback.
        store: Where features of the frozen model are kept.
        resources: Cores and memory to use; None: all that this process may use.
        on_expected: Told before training how many seconds it and the evaluation are expected to take.
        began: When a ``time_limit`` began, as ``time.monotonic`` tells it; None is now.
        ranks: The processes that share the run. All of them call this alike; the first one alone writes.
        **settings: The arguments of ``methods.fit_config``.

    Raises:
        BlockloraError: Anything about the data, the model, the options or the folder is not as expected.
        KeyboardInterrupt: Ctrl-C; with ``resume`` the run goes on from where it was.
    """
    choice = DataChoice(data, root, protocol, index, classes, class_names, tuple(add or ()), test)
    given, averaged = chosen_templates(prompt, prompts)
    config = fit_config(prompt=given or "{}", ensemble=averaged, **settings)
    fitting = Fitting(config, store, resources, progress, on_expected, ranks)
    return _run(out, choice, fitting, given, began or time.monotonic(), refit=refit, resume=resume)


def _run(
    out: Path | None,
    choice: DataChoice,
    fitting: Fitting,
    prompt: str | None,
    began: float,
    *,
    refit: bool,
    resume: bool,
) -> tuple[Path, RunMetrics]:
    """Choose the images, and do the run in its folder; ``prompt`` is None for the data set's own."""
    config, ranks, several = fitting.config, fitting.ranks, refit or choice.test is not None
    check_shares(config.method, config.settings, config.time_limit, ranks)
    if ranks.count > 1 and several:
        raise ConfigError(
            f"{'test' if choice.test else 'refit'}: several fits, which one process does; start it without torchrun."
        )
    whole, drawn = choose(choice, config.shots, config.seed)
    usual = DEFAULT_PROMPT if choice.protocol == "clip-lora" else whole.prompt
    config = replace(config, prompt=prompt or usual)
    folder = user_path(out) if out else _default_out(whole.name, config)
    limit = config.time_limit
    if several:  # auto has a limit of its own, which is then for all its fits together
        limit = limit or getattr(config.settings, "seconds", None)
    fitting, deadline = replace(fitting, config=config), Deadline.of(limit, began)
    with _claimed(folder, ranks):
        metrics = _run_in(folder, choice, fitting, whole, drawn, deadline, refit=refit, resume=resume)
    return folder, metrics


@contextmanager
def _claimed(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Let the first rank claim the folder, for all."""
    with ExitStack() as stack:
        ranks.on_first(lambda: str(stack.enter_context(claim_folder(folder))))
        yield


def _run_in(
    out: Path,
    choice: DataChoice,
    fitting: Fitting,
    whole: Dataset,
    drawn: FewShotSplit,
    deadline: Deadline | None,
    *,
    refit: bool,
    resume: bool,
) -> RunMetrics:
    """Do the run in its folder: check, prepare, fit, open the seal, measure, fit again, write."""
    config, ranks = fitting.config, fitting.ranks
    dataset, split, sealed = seal(whole, drawn)
    described = config_json(choice, config, refit=refit)
    record = training_record(split, dataset.class_names)
    if finished := ranks.on_first(lambda: _finished(out, described, record, resume)):
        return metrics_from_json(finished)
    reset_peak_memory(config.device)
    prepared = prepare(config, dataset, split)
    origin = {"model_sha256": prepared.clip.model_sha256, "versions": numeric_versions()}
    ranks.on_first(lambda: check_origin(out, origin, resume))
    facts = {"config": described, "images": record["training_hash"], "origin": origin}
    checkpoint = Checkpoint(out / CHECKPOINT, fingerprint(facts))
    with _freed_on_failure(out, checkpoint) if ranks.first else nullcontext():
        ranks.on_first(lambda: start_run(out, described, origin, record))
        twice = bool(drawn.val) if choice.test else refit
        predictions = out / PREDICTIONS
        folds = (
            cross_validated(fitting, prepared, dataset.name, checkpoint, deadline, predictions)
            if choice.test
            else None
        )
        first = kept_back(deadline, config, drawn) if twice else deadline
        fit = fitting.times(1 + twice).fit(prepared, checkpoint, first, len(drawn.test))
        test = sealed.open_after_training()
        measured, test = folds or (
            measure(fit, dataset.name, test, fitting.progress, fitting.store, predictions),
            test,
        )
        split = replace(split, test=test)
        metrics = run_metrics(measured, choice, dataset, split, prepared, config, fit)
        recorded = split_record(split, dataset.class_names) | record
        if twice:
            recorded["fitted_to"] = ["train", "val"] if folds else ["train", "val", "test"]
            last = Checkpoint(out / REFIT, fingerprint(facts | {"test": recorded["hash"]}))
            fit, metrics = fit_to_all(fitting, fit, prepared, test, metrics, last)
        metrics = replace(metrics, notes=(*metrics.notes, *_late_notes(deadline)))
        if ranks.first:
            _write_classifier(out, fit, dataset, config)
            write_json(out / SPLIT, recorded)
            _write_report(out / REPORT, metrics, [*split.train, *split.val, *split.test])
            write_metrics(out / METRICS, metrics)  # the very last: a folder that has it is finished
    if ranks.first:
        checkpoint.remove()
    return metrics


def _finished(
    out: Path, described: Mapping[str, Any], record: Mapping[str, Any], resume: bool
) -> Mapping[str, Any] | None:
    """Return the metrics of a run that is finished, as metrics.json holds them; see ``check_run``."""
    found = check_run(out, described, record, resume)
    return metrics_json(found) if found else None


def _late_notes(deadline: Deadline | None) -> tuple[str, ...]:
    """Say that the time limit was passed."""
    if deadline is None or deadline.passed() <= deadline.seconds:
        return ()
    return (
        f"the time limit of {in_words(deadline.seconds)} was passed: the run took {in_words(deadline.passed())}",
    )


@contextmanager
def _freed_on_failure(out: Path, checkpoint: Checkpoint) -> Iterator[None]:
    """Free the folder for another try where a run fails, whatever the error, before a checkpoint was kept."""
    try:
        yield
    except BaseException:
        if not checkpoint.began:
            checkpoint.remove()
            free_folder(out)
        raise


def chosen_templates(
    prompt: str | Sequence[str] | None, prompts: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """Return the template that trains (None is the data set's own) and those that predict (none: that one).

    Raises:
        ConfigError: Several templates and a published ensemble are both asked for, or there is no such ensemble.
    """
    given = (prompt,) if isinstance(prompt, str) else tuple(prompt or ())
    if prompts and len(given) > 1:
        raise ConfigError(
            f"prompts '{prompts}': expected no more than one prompt beside it, not {len(given)}."
        )
    averaged = ensemble(prompts) if prompts else given if len(given) > 1 else ()
    return next(iter(given), None), averaged


def _default_out(name: str, config: FitConfig) -> Path:
    """Return where a run goes when nobody says."""
    shots = "all" if config.shots is None else f"{config.shots}shot"
    limit = "" if config.time_limit is None else f"-{config.time_limit:g}s"
    return Path("runs") / f"{Path(name).stem}-{config.method}-{shots}-seed{config.seed}{limit}"


def _write_classifier(out: Path, fit: Fit, dataset: Dataset, config: FitConfig) -> None:
    """Write what was learned; its parameters are named as those of ``FewShotClassifier``."""
    left_out = ("model", "method", "device", "precision", "deterministic")
    parameters = {name: value for name, value in config.to_json().items() if name not in left_out}
    labels = list(dataset.class_names)
    write_classifier(out, fit.classifier, labels, parameters, recorded_versions(), dataset.found_names)


def _write_report(path: Path, metrics: RunMetrics, images: Sequence[Example]) -> None:
    """Write the report, with small copies of some training and test images."""
    sources = {example.image: example.source for example in images}

    def open_by_name(image: str) -> Image.Image | None:
        try:
            return open_image(sources[image])
        except (KeyError, ImageError):
            return None

    write_report(metrics, path, open_by_name)
