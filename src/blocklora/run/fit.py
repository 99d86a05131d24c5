"""One run from a data set to a RUN folder: sample, fit, and only then look at the test pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blocklora.core.errors import BlockloraError, ConfigError, DataError, ImageError
from blocklora.core.files import write_json
from blocklora.data import (
    DataChoice,
    Dataset,
    Example,
    FewShotSplit,
    Half,
    Protocol,
    choose,
    choose_test,
    ensemble,
    open_image,
    seal,
    split_record,
    training_record,
)
from blocklora.estimator import DEFAULT_PROMPT, FewShotClassifier
from blocklora.metrics import evaluate
from blocklora.report import write_report
from blocklora.run.folder import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    REPORT,
    SPLIT,
    check_run,
    forget_start,
    read_json,
    start_run,
)
from blocklora.run.record import config_json, what_was_done
from blocklora.training import Checkpoint

__all__ = ["Progress", "chosen_templates", "data_choice", "evaluate_run", "fit_run", "measure"]

_MISTAKES = 24


class Progress(Interface):
    """Who is told how far a run has come."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """A training step is done."""
        ...

    def encoded(self, done: int, total: int) -> None:
        """Test pictures have been encoded."""
        ...


def fit_run(
    data: str,
    out: Path | None,
    *,
    root: str | None = None,
    protocol: Protocol = "coop",
    index: str | None = None,
    classes: Half | None = None,
    class_names: str | None = None,
    prompt: str | Sequence[str] | None = None,
    prompts: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Path, dict[str, Any]]:
    """Fit a classifier to a data set and measure it on the test pictures, once.

    The test pictures are sealed until training has ended: whatever touches them before raises.

    Args:
        data: A folder, a table, ``hf:NAME``, a bundled task's name, or a data set's name with ``root``.
        out: The RUN folder to make; None is ``runs/DATA-METHOD-SHOTS-SEED``.
        root: The folder that holds the folders of the data sets.
        protocol: How the shots are drawn: ``coop`` or ``clip-lora``.
        index: A file that names the training and validation pictures, in the place of sampling.
        classes: The ``base`` or ``new`` half of the classes; None is all.
        class_names: A file with other words for the classes.
        prompt: The sentence a class name stands in; of several the first trains, and the mean of their class
            features predicts. None is the data set's own, or "a photo of a {}." with the protocol clip-lora.
        prompts: A published ensemble that predicts: ``imagenet-7`` or ``imagenet-80``.
        resume: Go on with the unfinished run in ``out``.
        progress: Who is told how far it has come.
        **settings: The arguments of ``FewShotClassifier``.

    Returns:
        The RUN folder, and its metrics.

    Raises:
        BlockloraError: Anything about the data, the model, the options or the folder is not as expected.
        KeyboardInterrupt: Ctrl-C; with ``resume`` the run goes on from where it was.
    """
    choice = DataChoice(data, root, protocol, index, classes, class_names)
    given, averaged = chosen_templates(prompt, prompts)
    classifier = FewShotClassifier(prompt=given or "{}", ensemble=averaged, **settings)
    dataset, split, sealed = seal(*choose(choice, classifier.shots, classifier.seed))
    classifier.prompt = given or (DEFAULT_PROMPT if protocol == "clip-lora" else dataset.prompt)
    config = config_json(choice, classifier)
    record = training_record(split, dataset.class_names)
    out = out or _default_out(dataset.name, classifier)
    finished = check_run(out, config, record, resume)
    if finished:
        return out, finished
    prepared = classifier.prepare(dataset, split)
    start_run(out, config, record)
    known = json.dumps([config, record["training_hash"]], sort_keys=True)
    checkpoint = Checkpoint(out / CHECKPOINT, hashlib.sha256(known.encode()).hexdigest())
    try:
        fitted = classifier.train(
            prepared, checkpoint=checkpoint, on_step=progress.step if progress else None
        )
    except BlockloraError:
        if not checkpoint.path.exists():  # nothing was learned: the folder is free for another try
            forget_start(out)
        raise
    split = replace(split, test=sealed.open_after_training())
    metrics = measure(classifier, dataset, split, progress)
    metrics = metrics | what_was_done(dataset, split, prepared, classifier, fitted, metrics, config)
    classifier.save(out)
    write_json(
        out / SPLIT, split_record(split, dataset.class_names) | {"training_hash": record["training_hash"]}
    )
    _finish(out, metrics, {e.image: e for e in split.test})
    checkpoint.remove()
    return out, metrics


def evaluate_run(
    run: Path,
    data: str | None = None,
    *,
    root: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a finished run again: on its own test pictures, or on all pictures of another data set.

    Args:
        run: A RUN folder.
        data: A data set with (some of) the same classes; its test part if it has one, else all of it.
        root: The folder that holds the folders of the data sets, where ``data`` is a name.
        device: Where to compute.
        progress: Who is told how far it has come.

    Raises:
        RunError: The folder is not a finished run.
        DataError: The data set has a class that the run does not know, or the run's pictures are gone.
    """
    classifier = FewShotClassifier.load(run, device=device)
    config, record = read_json(run / CONFIG), read_json(run / SPLIT)
    test: Sequence[Example]
    if data is None:
        dataset = choose_test(data_choice(config), config["seed"])
        names = {item["image"] for item in record["test"]}
        test = tuple(example for example in dataset.test if example.image in names)
        if len(test) != len(names):
            raise DataError(
                f"{config['data']}: {len(names) - len(test)} of the run's {len(names)} test pictures are no longer "
                "there; put them back, or name another data set with --data."
            )
    else:
        dataset = choose_test(DataChoice(data, root), 0)
        test = (*dataset.train, *dataset.val, *dataset.test) if dataset.held_out else dataset.test
    test = _relabel(test, dataset, tuple(classifier.classes_.tolist()))
    split = FewShotSplit(train=(), val=(), test=test)
    metrics = measure(classifier, dataset, split, progress)
    return metrics | {"run": str(run), "dataset": dataset.name, "notes": list(dataset.notes)}


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


def data_choice(config: dict[str, Any]) -> DataChoice:
    """Return which data a run used, from its config.json."""
    return DataChoice(
        **{field.name: config[field.name] for field in fields(DataChoice) if field.name in config}
    )


def measure(
    classifier: FewShotClassifier, dataset: Dataset, split: FewShotSplit, progress: Progress | None
) -> dict[str, Any]:
    """Encode the test pictures once, with and without the adapter, and compute all metrics."""
    total = len(split.test)
    encoded = classifier.encode(
        [(example.image, example.source) for example in split.test],
        zero_shot=True,
        on_batch=(lambda done: progress.encoded(done, total)) if progress else None,
    )
    if not encoded.kept:
        raise DataError(f"{dataset.name}: none of the {total} test pictures can be read.")
    kept = [split.test[index] for index in encoded.kept]
    labels = np.array([example.label for example in kept])
    probabilities = classifier.fitted.probabilities(encoded.features[:, 0])
    zero_shot = classifier.fitted.zero_shot_labels(encoded.features[:, 1])
    names = [str(name) for name in classifier.classes_]
    return evaluate(probabilities, labels, names, zero_shot) | {
        "temperature": classifier.temperature_,
        "mistakes": _mistakes(kept, labels, probabilities, names),
        "unreadable": [{"image": bad.image, "reason": bad.reason} for bad in encoded.unreadable],
    }


def _mistakes(
    examples: Sequence[Example],
    labels: NDArray[Any],
    probabilities: NDArray[np.float64],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the wrongly classified pictures, most confident first."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    rows = []
    for place in worst.tolist():
        top = np.argsort(-probabilities[place], kind="stable")[:3].tolist()
        rows.append(
            {
                "image": examples[place].image,
                "label": names[labels[place]],
                "predicted": names[predicted[place]],
                "top": [[names[label], float(probabilities[place, label])] for label in top],
            }
        )
    return rows


def _default_out(name: str, classifier: FewShotClassifier) -> Path:
    """Return where a run goes when nobody says."""
    shots = "all" if classifier.shots is None else f"{classifier.shots}shot"
    return Path("runs") / f"{Path(name).stem}-{classifier.method}-{shots}-seed{classifier.seed}"


def _finish(out: Path, metrics: dict[str, Any], examples: dict[str, Example]) -> None:
    """Write the report, and metrics.json as the very last."""

    def open_picture(image: str) -> Image.Image | None:
        try:
            return open_image(examples[image].source)
        except (KeyError, ImageError):
            return None

    write_report(metrics, out / REPORT, open_picture)
    write_json(out / METRICS, metrics)


def _relabel(test: Sequence[Example], dataset: Dataset, names: tuple[Any, ...]) -> tuple[Example, ...]:
    """Give the pictures of a data set the labels of a classifier, by class name."""
    if dataset.class_names == tuple(map(str, names)):  # also where a name stands twice, as in ImageNet
        return tuple(test)
    known = {str(name): label for label, name in enumerate(names)}
    listed = [str(name) for name in names]
    if doubled := [name for name in dataset.class_names if listed.count(name) > 1]:
        raise DataError(
            f"{dataset.name}: '{doubled[0]}' is the name of {listed.count(doubled[0])} classes of the run, so its "
            "pictures have no one right answer; 'blocklora domain-generalization' tests among the set's own classes."
        )
    unknown = [
        dataset.class_names[example.label]
        for example in test
        if dataset.class_names[example.label] not in known
    ]
    if unknown:
        raise DataError(
            f"{dataset.name}: class '{unknown[0]}' is not one that the run knows: {', '.join(list(known)[:10])}"
            f"{', ...' if len(known) > 10 else ''}."
        )
    return tuple(
        Example(example.image, known[dataset.class_names[example.label]], example.source) for example in test
    )
