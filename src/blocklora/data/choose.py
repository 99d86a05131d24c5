"""From what a user says of the data to the images of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from blocklora.core.errors import ConfigError, DataError
from blocklora.core.files import user_path
from blocklora.core.words import count, did_you_mean, name_some
from blocklora.data.added import with_added
from blocklora.data.bundled import bundled_names
from blocklora.data.classes import number_notes
from blocklora.data.literature.benchmarks import missing
from blocklora.data.literature.index_files import read_index
from blocklora.data.literature.split_files import read_json_file
from blocklora.data.load import load_dataset
from blocklora.data.sampling import Half, SamplingProtocol, few_shot, half_of_classes
from blocklora.data.types import Dataset, FewShotSplit

__all__ = ["DataChoice", "choose", "choose_test", "renamed"]


@dataclass(frozen=True)
class DataChoice:
    """Which data a run uses, as ``config.json`` keeps it.

    Attributes:
        data: A folder, a table, a name with ``root``, ``hf:NAME``, or a bundled task.
        root: The folder of the data sets' folders.
        protocol: How the shots are drawn.
        index: A file that names the training and validation images, in the place of sampling.
        classes: All of them (None), or the ``base`` or ``new`` half.
        class_names: A file with other words for the classes: one a line or a JSON list, in label order, or a JSON
            object from old names to new ones.
        add: CSV files with labelled images that train beside the shots.
        test: ``cross-validation`` where all images take turns as test images; None: the test part, or a quarter of the
            images that is held out for want of one.
    """

    data: str
    root: str | None = None
    protocol: SamplingProtocol = "coop"
    index: str | None = None
    classes: Half | None = None
    class_names: str | None = None
    add: Sequence[str] = ()
    test: Literal["cross-validation"] | None = None

    def to_json(self) -> Mapping[str, Any]:
        """Return the choice as JSON-ready values, with paths made absolute."""
        path = user_path(self.data)
        here = {"data": str(path.resolve())} if self.root is None and path.exists() else {}
        files = ("root", "index", "class_names")
        absolute = {name: str(user_path(getattr(self, name)).resolve()) for name in files
                    if getattr(self, name) is not None}  # fmt: skip
        own = asdict(self) | here | absolute
        own["add"] = [str(user_path(file).resolve()) for file in self.add]
        return {name: value for name, value in own.items() if value or name not in ("add", "test")}


def choose(choice: DataChoice, shots: int | None, seed: int) -> tuple[Dataset, FewShotSplit]:
    """Load a data set and take the images of one run; every file of the run is there when this returns.

    Args:
        choice: Which data.
        shots: Training images a class; None for all.
        seed: Where the sampling starts.

    Raises:
        DataError: The data cannot be used, or images are missing; the message counts and names them.
        ConfigError: ``shots``, the protocol or the test cannot work.
    """
    if choice.test not in (None, "cross-validation"):
        raise ConfigError(f"test '{choice.test}': expected cross-validation, or None for the test part.")
    dataset = _whole(choice, seed)
    if choice.test and dataset.test:
        raise DataError(
            f"{dataset.name}: has a test part of {count(len(dataset.test), 'image')}, which measures what is shipped; "
            "cross-validation is for data without one: leave --test out, or name the folder of the training images "
            "alone"
        )
    if not dataset.train:
        raise DataError(
            f"{dataset.name}: this data set is for testing only: train on imagenet, as 'blocklora "
            "domain-generalization' does, or name it in --to"
        )
    if choice.index:
        split = read_index(user_path(choice.index), dataset)
    else:
        split = few_shot(dataset, shots, seed, choice.protocol)
    if choice.classes:
        dataset, split = half_of_classes(dataset, split, choice.classes)
    if choice.add:
        split = with_added(dataset, split, choice.add)
    _check_there(dataset, split)
    return dataset, split


def choose_test(choice: DataChoice, seed: int) -> Dataset:
    """Load a data set for its test part alone; nothing is sampled, and ``train`` may be empty.

    Raises:
        DataError: The data cannot be used, or test images are missing.
    """
    dataset = _whole(choice, seed)
    nothing = FewShotSplit((), (), dataset.test)
    if choice.classes:
        dataset, nothing = half_of_classes(dataset, nothing, choice.classes)
    _check_there(dataset, nothing)
    return dataset


def _whole(choice: DataChoice, seed: int) -> Dataset:
    """Load a data set, with its classes in the words that are asked for."""
    dataset = load_dataset(choice.data, seed=seed, root=choice.root, hold_out=choice.test is None)
    if choice.class_names:
        return renamed(dataset, user_path(choice.class_names))
    known = (
        choice.root is not None or dataset.name in bundled_names()
    )  # their prompts say what the numbers are
    return dataset if known else replace(dataset, notes=(*dataset.notes, *number_notes(dataset.class_names)))


def _check_there(dataset: Dataset, split: FewShotSplit) -> None:
    """Raise unless every file of a run is there."""
    for part, examples in (("training", split.train), ("validation", split.val), ("test", split.test)):
        if gone := missing(examples):
            raise DataError(
                f"{dataset.name}: {count(len(gone), f'{part} image')} of {len(examples)} not found "
                f"({name_some(gone)}): put them back; results without them could not be compared"
            )


def renamed(dataset: Dataset, path: Path) -> Dataset:
    """Give the classes the words that a file has for them; the old names are kept as ``found_names``.

    Args:
        dataset: The data set.
        path: Words one a line or as a JSON list, in label order, or a JSON object from old names to new ones.

    Raises:
        DataError: The file cannot be read, or names no class of the data set, or not one word a class.
    """
    names: Any
    if path.suffix.lower() == ".json":
        names = read_json_file(path)
    else:
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}): expected class names, one a line") from None
    if isinstance(names, dict):
        if unknown := sorted(set(names) - set(dataset.class_names)):
            hint = did_you_mean(unknown[0], dataset.class_names)
            raise DataError(
                f"{path}: {name_some(unknown)} is no class of {dataset.name}{hint}: write its names as they are"
            )
        names = [names.get(name, name) for name in dataset.class_names]
    if not _good_names(names, len(dataset.class_names)):
        raise DataError(
            f"{path}: expected {len(dataset.class_names)} class names, in label order, none of them blank"
        )
    return replace(
        dataset,
        class_names=tuple(names),
        found_names=dataset.class_names,
        notes=(*dataset.notes, f"class names are those of {path.name}"),
    )


def _good_names(names: Any, n: int) -> bool:
    """Whether these are n words."""
    return (
        isinstance(names, Sequence)
        and len(names) == n
        and all(isinstance(x, str) and x.strip() for x in names)
    )
