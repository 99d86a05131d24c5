"""One run from a data set to a RUN folder: sample, fit, and only then look at the test images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from blocklora.classifier import NOTHING_KEPT, FeatureStore, write_classifier
from blocklora.core.deadline import Deadline, in_words
from blocklora.core.device import reset_peak_memory
from blocklora.core.errors import ImageError, RunError
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
    chosen_templates,
    open_image,
    seal,
    split_record,
    training_record,
)
from blocklora.methods import (
    DEFAULT_PROMPT,
    Fit,
    FitConfig,
    check_shares,
    fit_classifier,
    fit_config,
    prepare,
)
from blocklora.report import (
    RunMetrics,
    metrics_from_json,
    metrics_json,
    write_confusion,
    write_metrics,
    write_report,
)
from blocklora.run.findings import run_findings
from blocklora.run.folder import (
    CHECKPOINT,
    CONFUSION,
    METRICS,
    PREDICTIONS,
    REPORT,
    SPLIT,
    check_origin,
    check_run,
    free_folder,
    start_run,
)
from blocklora.run.how import Before, HowRun, Progress
from blocklora.run.measure import measure
from blocklora.run.record import config_json, run_metrics
from blocklora.training import Checkpoint, OnExpected

__all__ = ["claimed", "fit_run", "run_in", "write_results"]


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
    began = began or time.monotonic()
    choice = DataChoice(data, root, protocol, index, classes, class_names, tuple(add or ()))
    given, averaged = chosen_templates(prompt, prompts)
    config = fit_config(prompt=given or "{}", ensemble=averaged, **settings)
    check_shares(config.method, config.settings, config.time_limit, ranks)
    whole, drawn = choose(choice, config.shots, config.seed)
    config = replace(config, prompt=given or (DEFAULT_PROMPT if protocol == "clip-lora" else whole.prompt))
    folder = user_path(out) if out else _default_out(whole.name, config)
    deadline = Deadline.of(config.time_limit, began)
    how = HowRun(resume, progress, store, resources, deadline, on_expected, ranks)
    with claimed(folder, ranks):
        return folder, run_in(folder, choice, config, whole, drawn, how)


@contextmanager
def claimed(folder: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Let the first rank claim the folder, for all."""
    with ExitStack() as stack:
        ranks.on_first(lambda: str(stack.enter_context(claim_folder(folder))))
        yield


def run_in(
    out: Path,
    choice: DataChoice,
    config: FitConfig,
    whole: Dataset,
    drawn: FewShotSplit,
    how: HowRun,
    before: Before | None = None,
) -> RunMetrics:
    """Do a run in its folder, which is claimed: check, prepare, fit, open the seal, measure, write.

    Args:
        out: The folder.
        choice: The data, as config.json names it.
        config: What is to be done.
        whole: The classes.
        drawn: The images of each part.
        how: What changes nothing in the result.
        before: The run that this one goes on from.
    """
    progress, store, deadline, ranks = how.progress, how.store, how.deadline, how.ranks
    dataset, split, sealed = seal(whole, drawn)
    described = config_json(choice, config) | ({"added_class": before.facts} if before else {})
    record = training_record(split, dataset.class_names)
    if finished := ranks.on_first(lambda: _finished(out, described, record, how.resume)):
        return metrics_from_json(finished)
    reset_peak_memory(config.device)
    prepared = prepare(config, dataset, split)
    origin = {"model_sha256": prepared.clip.model_sha256, "versions": numeric_versions()}
    _check_before(before, origin)
    ranks.on_first(lambda: check_origin(out, origin, how.resume))
    facts = {"config": described, "images": record["training_hash"], "origin": origin}
    checkpoint = Checkpoint(out / CHECKPOINT, fingerprint(facts))
    with _freed_on_failure(out, checkpoint) if ranks.first else nullcontext():
        ranks.on_first(lambda: start_run(out, described, origin, record))
        fit = fit_classifier(
            prepared,
            config,
            store=store,
            resources=how.resources,
            checkpoint=checkpoint,
            on_step=progress.step if progress else None,
            deadline=deadline,
            n_test=len(drawn.test),
            on_expected=how.on_expected if ranks.count == 1 else None,
            on_part=progress.part if progress else None,
            ranks=ranks,
            start=before.start if before else None,
        )
        split = replace(split, test=sealed.open_after_training())
        measured = measure(fit, dataset.name, split.test, progress, store, out / PREDICTIONS)
        metrics = run_metrics(measured.metrics, choice, dataset, split, prepared, config, fit)
        if ranks.first:
            findings, notes = run_findings(fit, prepared.task, measured)
            metrics = replace(metrics, findings=findings, notes=(*metrics.notes, *notes))
        metrics = _told(metrics, deadline, before)
        if ranks.first:
            _write_classifier(out, fit, dataset, config)
            record = split_record(split, dataset.class_names) | record
            write_results(out, record, metrics, [*split.train, *split.val, *split.test])
    if ranks.first:
        checkpoint.remove()
    return metrics


def write_results(
    out: Path, record: Mapping[str, Any], metrics: RunMetrics, images: Sequence[Example]
) -> None:
    """Write what makes a RUN folder finished, whose classifier is there.

    Args:
        out: The folder.
        record: What split.json is to hold.
        metrics: Of the run.
        images: Those that the report may show.
    """
    write_json(out / SPLIT, record)
    write_confusion(out / CONFUSION, metrics.evaluation)
    _write_report(out / REPORT, metrics, images)
    write_metrics(out / METRICS, metrics)  # the very last: a folder that has it is finished


def _finished(
    out: Path, described: Mapping[str, Any], record: Mapping[str, Any], resume: bool
) -> Mapping[str, Any] | None:
    """Return the metrics of a run that is finished, as metrics.json holds them; see ``check_run``."""
    found = check_run(out, described, record, resume)
    return metrics_json(found) if found else None


def _check_before(before: Before | None, origin: Mapping[str, Any]) -> None:
    """Raise where the base model has other weights than the run's that goes on."""
    if before and before.model_sha256 not in (None, origin["model_sha256"]):
        raise RunError(
            f"{before.facts['run']}: its base model has other weights now; bring the old ones back, or name the place "
            "with --model."
        )


def _told(metrics: RunMetrics, deadline: Deadline | None, before: Before | None) -> RunMetrics:
    """Add what a time limit did, and what became of the run that went on."""
    metrics = replace(metrics, notes=(*metrics.notes, *_late_notes(deadline)))
    return before.told(metrics) if before else metrics


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
