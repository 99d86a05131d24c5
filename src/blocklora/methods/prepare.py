"""Before training: pictures read, prompts made, the model loaded, and everything checked that can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocklora.clip import Clip, load_clip, tokenize
from blocklora.core.errors import DataError
from blocklora.data import Dataset, Example, FewShotSplit, Unreadable, prompts, readable
from blocklora.methods import Task

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """All that training needs, read and checked.

    Attributes:
        clip: The model.
        task: Classes, prompts, and readable training pictures.
        val: Readable validation pictures.
        notes: What was decided on the way, in sentences.
        unreadable: Training and validation pictures that could not be read.
    """

    clip: Clip
    task: Task
    val: tuple[Example, ...]
    notes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


def prepare(
    model: str, prompt: str, dataset: Dataset, split: FewShotSplit, ensemble: Sequence[str] = ()
) -> Prepared:
    """Read the training and validation pictures of a split and load the model.

    Args:
        model: A hub id, a folder, or ``tiny``.
        prompt: The sentence a class name stands in, with one ``{}``.
        dataset: The whole task.
        split: The pictures of the run; its test part is not touched.
        ensemble: More such sentences, whose class features are averaged.

    Raises:
        ConfigError: The prompt has no place for a class name.
        DataError: There are fewer than two classes, or a class has no readable training picture.
        ModelError: The model cannot be loaded.
    """
    if len(dataset.class_names) < 2:
        raise DataError(f"{dataset.name}: {len(dataset.class_names)} class; a classifier needs two or more.")
    train, bad_train = readable(split.train)
    val, bad_val = readable(split.val)
    _check_classes(dataset, train, bad_train)
    sentences = tuple(prompts(dataset.class_names, prompt))
    written = [prompts(dataset.class_names, template) for template in ensemble]
    clip = load_clip(model)
    tokens, cut = tokenize(sentences, clip.tokenizer, clip.context_length)
    return Prepared(
        clip=clip,
        task=Task(
            dataset.class_names,
            sentences,
            tokens,
            tuple(train),
            dataset.flip,
            tuple(val),
            tuple(tokenize(several, clip.tokenizer, clip.context_length)[0] for several in written),
        ),
        val=tuple(val),
        notes=(*split.notes, *_prompt_notes(cut, clip.context_length), *_temperature_notes(len(val))),
        unreadable=(*bad_train, *bad_val),
    )


def _check_classes(dataset: Dataset, train: Sequence[Example], bad: Sequence[Unreadable]) -> None:
    """Raise unless every class has a readable training picture."""
    present = {example.label for example in train}
    missing = [name for label, name in enumerate(dataset.class_names) if label not in present]
    if missing:
        reason = f" {len(bad)} could not be read, e.g. {bad[0].reason}" if bad else ""
        raise DataError(
            f"{dataset.name}: no readable training picture for class '{missing[0]}' ({len(missing)} such "
            f"classes).{reason} Add pictures or remove the class."
        )


def _prompt_notes(cut: Sequence[str], length: int) -> tuple[str, ...]:
    """Say which prompts were too long for the text tower."""
    if not cut:
        return ()
    return (f"{len(cut)} prompts have more than {length} tokens and were cut at the end, e.g. '{cut[0]}'",)


def _temperature_notes(n_val: int) -> tuple[str, ...]:
    """Say where the temperature does not come from."""
    if n_val:
        return ()
    return ("no validation pictures were left, so probabilities are not calibrated (temperature 1)",)
