"""One run from a data set to a RUN folder: sample, fit, and only then look at the test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from blocklora.classifier import NOTHING_KEPT, FeatureStore, write_classifier
from blocklora.clip import Clip
from blocklora.core.device import reset_peak_memory
from blocklora.core.errors import ConfigError, ImageError
from blocklora.core.files import claim_folder, user_path, write_json
from blocklora.core.fingerprint import fingerprint, numeric_versions, recorded_versions
from blocklora.core.resources import Resources
from blocklora.data import (
    DataChoice,
    Example,
    Half,
    SamplingProtocol,
    choose,
    ensemble,
    open_image,
    seal,
    split_record,
    training_record,
)
from blocklora.methods import DEFAULT_PROMPT, Fit, FitConfig, Prepared, fit_classifier, fit_config, prepare
from blocklora.report import RunMetrics, write_metrics, write_report
from blocklora.run.folder import (
    CHECKPOINT,
    METRICS,
    PREDICTIONS,
    REPORT,
    SPLIT,
    check_origin,
    check_run,
    forget_start,
    start_run,
)
from blocklora.run.measure import measure
from blocklora.run.record import config_json, run_metrics
from blocklora.training import Checkpoint

__all__ = ["Progress", "chosen_templates", "fit_run"]


class Progress(Protocol):
    """A progress callback."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
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
    prompt: str | Sequence[str] | None = None,
    prompts: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    store: FeatureStore = NOTHING_KEPT,
    resources: Resources | None = None,
    **settings: Any,
) -> tuple[Path, RunMetrics]:
    """Fit a classifier to a data set and measure it on the test images, once.

    The test images are sealed until training has ended: whatever touches them before raises.

    Args:
        data: A folder, a table, ``hf:NAME``, a bundled task's name, or a data set's name with ``root``.
        out: The RUN folder to make; None is ``runs/DATA-METHOD-SHOTS-SEED``.
        root: The folder that holds the folders of the data sets.
        protocol: How the shots are drawn: ``coop`` or ``clip-lora``.
        index: A file that names the training and validation images, in the place of sampling.
        classes: The ``base`` or ``new`` half of the classes; None is all.
        class_names: A file with other words for the classes.
        prompt: The sentence a class name stands in; of several the first trains, and the mean of their class
            features predicts. None is the data set's own, or "a photo of a {}." with the protocol clip-lora.
        prompts: A published ensemble that predicts: ``imagenet-7`` or ``imagenet-80``.
        resume: Go on with the unfinished run in ``out``.
        progress: The progress callback.
        store: Where features of the frozen model are kept.
        resources: Cores and memory to use; None: all that this process may use.
        **settings: The arguments of ``methods.fit_config``.

    Returns:
        The RUN folder, and its metrics.

    Raises:
        BlockloraError: Anything about the data, the model, the options or the folder is not as expected.
        KeyboardInterrupt: Ctrl-C; with ``resume`` the run goes on from where it was.
    """
    choice = DataChoice(data, root, protocol, index, classes, class_names)
    given, averaged = chosen_templates(prompt, prompts)
    config = fit_config(prompt=given or "{}", ensemble=averaged, **settings)
    dataset, split, sealed = seal(*choose(choice, config.shots, config.seed))
    config = replace(config, prompt=given or (DEFAULT_PROMPT if protocol == "clip-lora" else dataset.prompt))
    out = user_path(out) if out else _default_out(dataset.name, config)
    with claim_folder(out):
        described = config_json(choice, config)
        record = training_record(split, dataset.class_names)
        finished = check_run(out, described, record, resume)
        if finished:
            return out, finished
        reset_peak_memory(config.device)
        prepared = prepare(config, dataset, split)
        origin = _origin(prepared.clip)
        check_origin(out, origin, resume)
        start_run(out, described | {"origin": origin}, record)
        facts = {"config": described, "images": record["training_hash"], "origin": origin}
        checkpoint = Checkpoint(out / CHECKPOINT, fingerprint(facts))
        fit = _fit_or_free(out, prepared, config, checkpoint, progress, store, resources)
        split = replace(split, test=sealed.open_after_training())
        measured = measure(fit, dataset.name, split.test, progress, store, out / PREDICTIONS)
        metrics = run_metrics(measured, choice, dataset, split, prepared, config, fit)
        write_classifier(
            out,
            fit.classifier,
            list(dataset.class_names),
            _parameters(config),
            recorded_versions(),
            dataset.found_names,
        )
        whole = split_record(split, dataset.class_names) | {"training_hash": record["training_hash"]}
        write_json(out / SPLIT, whole)
        _finish(out, metrics, {example.image: example for example in split.test})
        checkpoint.remove()
        return out, metrics


def _fit_or_free(
    out: Path,
    prepared: Prepared,
    config: FitConfig,
    checkpoint: Checkpoint,
    progress: Progress | None,
    store: FeatureStore,
    resources: Resources | None,
) -> Fit:
    """Fit; where that fails before anything was kept, the folder is free for another try."""
    try:
        return fit_classifier(
            prepared,
            config,
            store=store,
            resources=resources,
            checkpoint=checkpoint,
            on_step=progress.step if progress else None,
        )
    except BaseException:
        if not checkpoint.path.exists():
            checkpoint.remove()
            forget_start(out)
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


def _origin(clip: Clip) -> dict[str, Any]:
    """Return what a run grows from beside its settings and images: a resumed run must have the same."""
    return {"model_sha256": clip.model_sha256, "versions": numeric_versions()}


def _parameters(config: FitConfig) -> dict[str, Any]:
    """Return the parameters of a fit as ``FewShotClassifier`` names them."""
    left_out = ("model", "method", "device", "precision", "deterministic")
    return {name: value for name, value in config.to_json().items() if name not in left_out}


def _default_out(name: str, config: FitConfig) -> Path:
    """Return where a run goes when nobody says."""
    shots = "all" if config.shots is None else f"{config.shots}shot"
    return Path("runs") / f"{Path(name).stem}-{config.method}-{shots}-seed{config.seed}"


def _finish(out: Path, metrics: RunMetrics, examples: dict[str, Example]) -> None:
    """Write the report, and metrics.json as the very last: a folder that has it is finished."""

    def open_by_name(image: str) -> Image.Image | None:
        try:
            return open_image(examples[image].source)
        except (KeyError, ImageError):
            return None

    write_report(metrics, out / REPORT, open_by_name)
    write_metrics(out / METRICS, metrics)
