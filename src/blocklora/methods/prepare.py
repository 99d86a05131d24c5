"""Before training: images read, prompts made, the model loaded, and everything checked that can be wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from blocklora.clip import Clip, load_clip, tokenize
from blocklora.core.errors import ConfigError, DataError
from blocklora.core.words import count, name_some
from blocklora.data import Copies, Dataset, Example, FewShotSplit, Unreadable, prompts, readable, same_words
from blocklora.methods.config import FitConfig
from blocklora.methods.method import Task
from blocklora.methods.table import METHODS, find_method

__all__ = ["Prepared", "prepare", "prepared_for"]


@dataclass(frozen=True)
class Prepared:
    """All that training needs, read and checked.

    Attributes:
        clip: The model.
        task: Classes, prompts, and readable training and validation images.
        notes: What was decided on the way, in sentences.
        unreadable: Training and validation images that could not be read.
    """

    clip: Clip
    task: Task
    notes: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]


def prepare(config: FitConfig, dataset: Dataset, split: FewShotSplit) -> Prepared:
    """Read the training and validation images of a split and load the model.

    Args:
        config: What is to be done.
        dataset: The whole task.
        split: The images of the run; its test part is not touched.

    Raises:
        ConfigError: A prompt has no place for a class name, or the method does not work on the model's family.
        DataError: There are fewer than two classes, or a class has no readable training image.
        ModelError: The model cannot be loaded.
    """
    if len(dataset.class_names) < 2:
        raise DataError(
            f"{dataset.name}: {count(len(dataset.class_names), 'class')}; a classifier needs two or more."
        )
    copies = Copies()
    train, bad_train = readable(split.train, copies.open)
    val, bad_val = readable(split.val, copies.open)
    _check_classes(dataset, train, bad_train)
    prompts(dataset.class_names, config.prompt)  # a wrong one is found before the model is loaded
    clip = load_clip(config.model, config.revision)
    _check_family(config.method, clip)
    notes = (*split.notes, *copies.notes(train, val, dataset.class_names))
    return prepared_for(clip, config, dataset, train, val, notes, (*bad_train, *bad_val))


def prepared_for(
    clip: Clip,
    config: FitConfig,
    dataset: Dataset,
    train: Sequence[Example],
    val: Sequence[Example],
    notes: Sequence[str],
    unreadable: Sequence[Unreadable],
) -> Prepared:
    """Make the prompts of a task whose images and model are known.

    Args:
        clip: The model.
        config: What is to be done.
        dataset: The classes.
        train: Training images.
        val: Validation images.
        notes: What was decided so far.
        unreadable: What could not be read.
    """
    sentences = tuple(prompts(dataset.class_names, config.prompt))
    written = [prompts(dataset.class_names, template) for template in config.ensemble]
    tokens, cut = tokenize(sentences, clip.tokenizer, clip.context_length)
    task = Task(
        class_names=dataset.class_names,
        prompts=sentences,
        tokens=tokens,
        train=tuple(train),
        flip=dataset.flip,
        val=tuple(val),
        ensemble=tuple(tokenize(several, clip.tokenizer, clip.context_length)[0] for several in written),
    )
    notes = (
        *notes,
        *_same_prompt_notes(dataset.class_names, tokens),
        *_cut_notes(cut, clip.context_length),
    )
    return Prepared(clip, task, notes, tuple(unreadable))


def _check_classes(dataset: Dataset, train: Sequence[Example], bad: Sequence[Unreadable]) -> None:
    """Raise unless every class has a readable training image."""
    present = {example.label for example in train}
    missing = [name for label, name in enumerate(dataset.class_names) if label not in present]
    if missing:
        reason = (
            f" {count(len(bad), 'image')} could not be read, e.g. {bad[0].reason.rstrip('.')}." if bad else ""
        )
        raise DataError(
            f"{dataset.name}: no readable training image for {name_some(missing)}.{reason} Add images or remove "
            f"the {'class' if len(missing) == 1 else 'classes'}."
        )


def _check_family(method: str, clip: Clip) -> None:
    """Raise unless a method works on models of a kind."""
    families = find_method(method).families
    if families is None or clip.model_type in families:
        return
    others = [name for name, other in METHODS.items() if other.families is None]
    raise ConfigError(
        f"method '{method}': works on models of the type {' or '.join(families)}, and {clip.model_id} is of the type "
        f"{clip.model_type}; expected one of {', '.join(others)}."
    )


def _same_prompt_notes(class_names: Sequence[str], tokens: Tensor) -> tuple[str, ...]:
    """Name classes whose prompts are the same to the text tower, or whose names are the same words."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, row in zip(class_names, tokens.tolist(), strict=True):
        groups[tuple(row)].append(name)
    same = [names for names in groups.values() if len(names) > 1]
    alike = [pair for pair in same_words(class_names) if not any(set(pair) <= set(names) for names in same)]
    notes = []
    if same:
        notes.append(f"{_listed(same)} have the same prompt to the text tower: names cannot tell them apart")
    if alike:
        notes.append(
            f"{_listed(alike)} are the same words, written differently: names hardly tell them apart"
        )
    return tuple(f"{note}; rename one, or give other words with --class-names" for note in notes)


def _listed(groups: Sequence[Sequence[str]]) -> str:
    """Name the classes of the first group, and count the other groups."""
    more = f" (and {count(len(groups) - 1, 'more such group')})" if len(groups) > 1 else ""
    return " and ".join(repr(name) for name in groups[0]) + more


def _cut_notes(cut: Sequence[str], length: int) -> tuple[str, ...]:
    """Say which prompts were too long for the text tower."""
    if not cut:
        return ()
    were = "was" if len(cut) == 1 else "were"
    return (
        f"{count(len(cut), 'prompt')} of more than {length} tokens {were} cut at the end, e.g. '{cut[0]}'",
    )
