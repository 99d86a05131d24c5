"""One run from a data set to a RUN folder: sample, fit, and only then look at the test images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

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
from blocklora.run.measure import measure
from blocklora.run.record import config_json, run_metrics
from blocklora.training import Checkpoint, OnExpected

__all__ = ["Progress", "chosen_templates", "fit_run"]


class Progress(Protocol):
    """A progress callback."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        ...

    def part(self, name: str) -> None:
        """What follows belongs to a part of the run of this name."""
        ...

    def encoded(self, done: int, total: int) -> None:
        """Test images have been encoded."""
        ...


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
    how = (resume, progress, store, resources, Deadline.of(config.time_limit, began), on_expected, ranks)
    with _claimed(folder, ranks):
        return folder, _run_in(folder, choice, config, whole, drawn, *how)


@contextmanager
def _claimed(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Let the first rank claim the folder, for all."""
    with ExitStack() as stack:
        ranks.on_first(lambda: str(stack.enter_context(claim_folder(folder))))
        yield


def _run_in(
    out: Path,
    choice: DataChoice,
    config: FitConfig,
    whole: Dataset,
    drawn: FewShotSplit,
    resume: bool,
    progress: Progress | None,
    store: FeatureStore,
    resources: Resources | None,
    deadline: Deadline | None,
    on_expected: OnExpected | None,
    ranks: Ranks,
) -> RunMetrics:
    """Do the run in its folder: check, prepare, fit, open the seal, measure, write."""
    dataset, split, sealed = seal(whole, drawn)
    described, record = config_json(choice, config), training_record(split, dataset.class_names)
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
        fit = fit_classifier(
            prepared,
            config,
            store=store,
            resources=resources,
            checkpoint=checkpoint,
            on_step=progress.step if progress else None,
            deadline=deadline,
            n_test=len(drawn.test),
            on_expected=on_expected if ranks.count == 1 else None,
            on_part=progress.part if progress else None,
            ranks=ranks,
        )
        split = replace(split, test=sealed.open_after_training())
        measured = measure(fit, dataset.name, split.test, progress, store, out / PREDICTIONS)
        metrics = run_metrics(measured.metrics, choice, dataset, split, prepared, config, fit)
        if ranks.first:
            findings, notes = run_findings(fit, prepared.task, measured)
            metrics = replace(metrics, findings=findings, notes=(*metrics.notes, *notes))
        metrics = replace(metrics, notes=(*metrics.notes, *_late_notes(deadline)))
        if ranks.first:
            _write_classifier(out, fit, dataset, config)
            write_json(out / SPLIT, split_record(split, dataset.class_names) | record)
            write_confusion(out / CONFUSION, metrics.evaluation)
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
