"""One run from a data set to a RUN folder: sample, fit, and only then look at the test images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from blocklora.classifier import NOTHING_KEPT, FeatureStore
from blocklora.core.deadline import Deadline, in_words
from blocklora.core.errors import ConfigError, RunError
from blocklora.core.files import claim_folder, user_path
from blocklora.core.fingerprint import fingerprint, numeric_versions
from blocklora.core.ranks import ALONE, Ranks
from blocklora.core.resources import Resources
from blocklora.data import (
    DataChoice,
    Dataset,
    FewShotSplit,
    Half,
    SamplingProtocol,
    choose,
    chosen_templates,
    seal,
    split_record,
    training_record,
)
from blocklora.methods import DEFAULT_PROMPT, Fit, FitConfig, Task, check_shares, fit_config, prepare
from blocklora.report import (
    RunMetrics,
    metrics_from_json,
    metrics_json,
)
from blocklora.run.before import Before
from blocklora.run.cross_validation import cross_validated
from blocklora.run.findings import run_findings
from blocklora.run.fitting import Fitting, Progress
from blocklora.run.folder import (
    CHECKPOINT,
    PREDICTIONS,
    REFIT,
    check_origin,
    check_run,
    free_folder,
    start_run,
)
from blocklora.run.measure import Measured, measure
from blocklora.run.record import config_json, run_metrics
from blocklora.run.refit import fit_to_all, kept_back
from blocklora.run.results import write_fitted, write_results
from blocklora.training import Checkpoint, OnExpected

__all__ = ["claimed", "fit_run", "run_in"]


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
    with claimed(folder, ranks):
        metrics = run_in(folder, choice, fitting, whole, drawn, deadline, refit=refit, resume=resume)
    return folder, metrics


@contextmanager
def claimed(folder: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Let the first rank claim the folder, for all."""
    with ExitStack() as stack:
        ranks.on_first(lambda: str(stack.enter_context(claim_folder(folder))))
        yield


def run_in(
    out: Path,
    choice: DataChoice,
    fitting: Fitting,
    whole: Dataset,
    drawn: FewShotSplit,
    deadline: Deadline | None,
    *,
    refit: bool = False,
    resume: bool = False,
    before: Before | None = None,
) -> RunMetrics:
    """Do a run in its folder, which is claimed: check, prepare, fit, open the seal, measure, fit again, write.

    Args:
        out: The folder.
        choice: The data, as config.json names it.
        fitting: How fits are done.
        whole: The classes.
        drawn: The images of each part.
        deadline: When the run is to end; None: it takes as long as it takes.
        refit: Whether what was measured is then fitted to all images.
        resume: Whether an unfinished run goes on.
        before: The run that this one goes on from.
    """
    config, ranks = fitting.config, fitting.ranks
    dataset, split, sealed = seal(whole, drawn)
    described = config_json(choice, config, refit=refit) | ({"added_class": before.facts} if before else {})
    record = training_record(split, dataset.class_names)
    if finished := ranks.on_first(lambda: _finished(out, described, record, resume)):
        return metrics_from_json(finished)
    prepared = prepare(config, dataset, split)
    origin = {"model_sha256": prepared.clip.model_sha256, "versions": numeric_versions()}
    ranks.on_first(lambda: _check_weights(out, origin, resume, before))
    facts = {"config": described, "images": record["training_hash"], "origin": origin}
    checkpoint = Checkpoint(out / CHECKPOINT, fingerprint(facts))
    with _freed_on_failure(out, checkpoint) if ranks.first else nullcontext():
        ranks.on_first(lambda: start_run(out, described, origin, record))
        twice, folds = bool(drawn.val) if choice.test else refit, None
        if choice.test:
            folds = cross_validated(fitting, prepared, dataset.name, checkpoint, deadline, out / PREDICTIONS)
        first = kept_back(deadline, config, drawn) if twice else deadline
        fit = fitting.times(1 + twice).fit(prepared, checkpoint, first, len(drawn.test))
        test = sealed.open_after_training()
        found = folds or measure(fit, dataset.name, test, fitting.progress, fitting.store, out / PREDICTIONS)
        split = replace(split, test=folds.images if folds else test)
        metrics = run_metrics(found.metrics, choice, dataset, split, prepared, config, fit)
        metrics = _with_findings(metrics, fit, prepared.task, found)
        recorded = split_record(split, dataset.class_names) | record
        if twice:
            recorded["fitted_to"] = ["train", "val"] if choice.test else ["train", "val", "test"]
            last = Checkpoint(out / REFIT, fingerprint(facts | {"test": recorded["hash"]}))
            fit, metrics = fit_to_all(fitting, fit, prepared, split.test, metrics, last)
        metrics = _told(metrics, deadline, before)
        if ranks.first:
            write_fitted(out, fit, dataset, config)
            write_results(out, recorded, metrics, [*split.train, *split.val, *split.test])
    if ranks.first:
        checkpoint.remove()
    return metrics


def _finished(
    out: Path, described: Mapping[str, Any], record: Mapping[str, Any], resume: bool
) -> Mapping[str, Any] | None:
    """Return the metrics of a run that is finished, as metrics.json holds them; see ``check_run``."""
    found = check_run(out, described, record, resume)
    return metrics_json(found) if found else None


def _check_weights(out: Path, origin: Mapping[str, Any], resume: bool, before: Before | None) -> None:
    """Raise where the base model has other weights than when the run began, or than the run's that it goes on from."""
    if before and before.model_sha256 not in (None, origin["model_sha256"]):
        raise RunError(
            f"{before.facts['run']}: its base model has other weights now; bring the old ones back, or name the place "
            "with --model."
        )
    check_origin(out, origin, resume)


def _told(metrics: RunMetrics, deadline: Deadline | None, before: Before | None) -> RunMetrics:
    """Add what a time limit did, and what became of the run that went on."""
    metrics = replace(metrics, notes=(*metrics.notes, *_late_notes(deadline)))
    return before.told(metrics) if before else metrics


def _with_findings(metrics: RunMetrics, fit: Fit, task: Task, found: Measured) -> RunMetrics:
    """Add what is wrong with the images; the first rank looks."""
    if not fit.compute.ranks.first:
        return metrics
    findings, notes = run_findings(fit, task, found)
    return replace(metrics, findings=findings, notes=(*metrics.notes, *notes))


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


def _default_out(name: str, config: FitConfig) -> Path:
    """Return where a run goes when nobody says."""
    shots = "all" if config.shots is None else f"{config.shots}shot"
    limit = "" if config.time_limit is None else f"-{config.time_limit:g}s"
    return Path("runs") / f"{Path(name).stem}-{config.method}-{shots}-seed{config.seed}{limit}"
