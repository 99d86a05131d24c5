"""Finished runs side by side, on the test images that all of them have. R runs, N images.

An image is the same where its name and the hash of its content are: so runs on two copies of a folder can be compared,
and an image that was replaced is noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from PIL import Image

from blocklora.core.errors import BlockloraError, ConfigError, DataError, ImageError, RunError
from blocklora.core.words import count as counted
from blocklora.core.words import name_some
from blocklora.data import open_image, read_split_part
from blocklora.metrics import holm, log_loss, pair_answers, top_calibration_error, wilson_interval
from blocklora.report import (
    ComparedPair,
    ComparedRun,
    Comparison,
    DisputedImage,
    OpenImage,
    PredictionRow,
    RunMetrics,
    read_metrics,
    read_predictions,
    shown_images,
    written_name,
)
from blocklora.run.folder import CONFIG, METRICS, PREDICTIONS, SPLIT, data_choice, read_json

__all__ = ["compare_runs", "open_shown"]


class _ImageKey(NamedTuple):
    """What tells a test image from all others; ``place`` counts images that a table lists more than once."""

    name: str
    sha256: str
    place: int


@dataclass(frozen=True)
class _Run:
    """A finished run: its letter, its folder, and what it said of each of its test images."""

    key: str
    folder: Path
    metrics: RunMetrics
    rows: Mapping[_ImageKey, PredictionRow]

    @property
    def class_names(self) -> set[str]:
        """The names of the classes that the run tells apart."""
        return {row.class_name for row in self.metrics.evaluation.per_class}


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare finished runs.

    Args:
        folders: Two or more RUN folders.

    Returns:
        The comparison, on the test images that all runs have; its notes say what was left out.

    Raises:
        ConfigError: There are fewer than two folders, or one is given twice.
        RunError: A folder is no finished run, or holds no predictions, or files that do not belong together.
        DataError: The runs have no test image in common.
    """
    _check_folders(folders)
    runs = [_read(key, folder) for key, folder in zip(_letters(), folders, strict=False)]
    keys, notes = _common(runs)
    correct = [[run.rows[key].correct for key in keys] for run in runs]
    pairs = list(combinations(range(len(runs)), 2))
    answers = [pair_answers(correct[one], correct[other]) for one, other in pairs]
    adjusted = holm([pair.p_value for pair in answers])
    return Comparison(
        n_images=len(keys),
        runs=tuple(_compared(run, [run.rows[key] for key in keys]) for run in runs),
        pairs=tuple(
            ComparedPair(runs[one].key, runs[other].key, pair, p)
            for (one, other), pair, p in zip(pairs, answers, adjusted, strict=True)
        ),
        disputed=tuple(_disputed(runs, keys)),
        notes=tuple(notes),
    )


def open_shown(folder: Path, comparison: Comparison) -> OpenImage:
    """Return a function that opens the images that the comparison's page shows, or gives None.

    Args:
        folder: The first run's.
        comparison: What is shown.
    """
    wanted = {one.image for one in shown_images(comparison)}
    record = read_json(folder / SPLIT)
    items = [item for item in record["test"] if written_name(item["image"]) in wanted]
    try:
        part = read_split_part({**record, "test": items}, "test", data_choice(read_json(folder / CONFIG)))
    except BlockloraError:  # a page must not fail for its thumbnails
        return lambda image: None
    sources = {written_name(example.image): example.source for example in part.images}

    def open_by_name(image: str) -> Image.Image | None:
        try:
            return open_image(sources[image])
        except (KeyError, ImageError):
            return None

    return open_by_name


def _letters() -> Iterator[str]:
    """Yield A to Z, then AA, AB and so on."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _check_folders(folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise ConfigError(f"{counted(len(folders), 'run')} to compare; expected two RUN folders or more.")
    twice = [folder for folder, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if twice:
        raise ConfigError(f"{twice[0]}: this run is given twice; expected different RUN folders.")


def _read(key: str, folder: Path) -> _Run:
    """Read a finished run."""
    if not (folder / METRICS).is_file():
        raise RunError(
            f"{folder}: is no finished run, as it has no {METRICS}; end it with 'blocklora fit --resume', or name "
            "another folder."
        )
    metrics = read_metrics(folder / METRICS)
    if not (folder / PREDICTIONS).is_file():
        raise RunError(
            f"{folder}: has no {PREDICTIONS}, which earlier versions did not write; fit it again with the settings "
            f"in {CONFIG} and another --out, and compare that run."
        )
    rows = read_predictions(folder / PREDICTIONS)
    found = metrics.evaluation
    if (len(rows), sum(row.correct for row in rows)) != (found.n_test, found.n_correct):
        raise RunError(
            f"{folder / PREDICTIONS}: has {sum(row.correct for row in rows)} right answers of {len(rows)}, but "
            f"{METRICS} beside it has {found.n_correct} of {found.n_test}; they are not of one run: fit it again."
        )
    return _Run(key, folder, metrics, _by_image(folder, read_json(folder / SPLIT), rows))


def _by_image(
    folder: Path, record: Mapping[str, Any], rows: Sequence[PredictionRow]
) -> dict[_ImageKey, PredictionRow]:
    """Return predictions by image, with the hashes that split.json has."""
    digests: dict[str, list[str]] = {}
    try:
        for item in record["test"]:
            digests.setdefault(written_name(item["image"]), []).append(item["sha256"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder / SPLIT}: expected a list 'test' of images with 'image' and 'sha256'; fit it again."
        ) from error
    places: Counter[str] = Counter()
    keyed = {}
    for row in rows:
        known, place = digests.get(row.image, []), places[row.image]
        if place >= len(known):
            raise RunError(
                f"{folder / PREDICTIONS}: names {row.image!r}, which is no test image of {SPLIT} beside it; they are "
                "not of one run: fit it again."
            )
        keyed[_ImageKey(row.image, known[place], place)] = row
        places[row.image] += 1
    return keyed


def _common(runs: Sequence[_Run]) -> tuple[list[_ImageKey], list[str]]:
    """Return the images that all runs have with the same class, and what a reader must know of the others."""
    first, *others = runs
    keys = [key for key in first.rows if all(key in other.rows for other in others)]
    notes = []
    for other in others:
        notes += [*_replaced_notes(first, other), *_class_notes(first, other)]
        keys, more = _same_class(keys, first, other)
        notes += more
    sizes = ", ".join(f"{run.key} has {len(run.rows)}" for run in runs)
    if not keys:
        raise DataError(
            f"The runs have no test image in common ({sizes}): an image is the same where name, content and class are. "
            f"{' '.join(notes)} Compare runs on the same test images."
        )
    if any(len(run.rows) > len(keys) for run in runs):
        notes.insert(
            0, f"Compared on the {counted(len(keys), 'test image')} that all runs have, no more: {sizes}."
        )
    return keys, notes


def _replaced_notes(first: _Run, other: _Run) -> list[str]:
    """Name images that have another content in another run."""
    gone = {key.name for key in other.rows.keys() - first.rows.keys()}
    names = [key.name for key in first.rows if key not in other.rows and key.name in gone]
    if not names:
        return []
    return [
        f"{counted(len(names), 'image')} left out, of the same name but another content in {first.key} and "
        f"{other.key}: {name_some(names)}."
    ]


def _class_notes(first: _Run, other: _Run) -> list[str]:
    """Say that two runs know different classes."""
    ours, theirs = first.class_names, other.class_names
    if ours == theirs:
        return []
    only = [
        f"only {run.key} knows {name_some(sorted(names))}"
        for run, names in ((first, ours - theirs), (other, theirs - ours))
        if names
    ]
    n_ours, n_theirs = (run.metrics.evaluation.n_classes for run in (first, other))
    if n_ours != n_theirs:
        only.append(
            f"{first.key} chooses among {n_ours} and {other.key} among {n_theirs}, and fewer are easier"
        )
    return [f"{first.key} and {other.key} have different classes: {'; '.join(only)}."]


def _same_class(keys: Sequence[_ImageKey], first: _Run, other: _Run) -> tuple[list[_ImageKey], list[str]]:
    """Return the images that have the same class in two runs, by its name or by other words for it.

    Two names are other words for one class where they always stand for each other, and neither run knows both.
    """
    labels = {key: (first.rows[key].label, other.rows[key].label) for key in keys}
    pairs = set(labels.values())
    ours, theirs = Counter(one for one, _ in pairs), Counter(two for _, two in pairs)
    renamed = {
        (one, two)
        for one, two in pairs
        if one != two and ours[one] == theirs[two] == 1
        if one not in other.class_names and two not in first.class_names
    }
    left = [key for key in keys if labels[key][0] == labels[key][1] or labels[key] in renamed]
    notes = []
    if renamed:
        words = name_some(f"{one} = {two}" for one, two in sorted(renamed))
        notes.append(
            f"{first.key} and {other.key} have other words for {counted(len(renamed), 'class')}: {words}."
        )
    if len(left) < len(keys):
        names = name_some(key.name for key in keys if key not in set(left))
        notes.append(
            f"{counted(len(keys) - len(left), 'image')} left out, of another class in {first.key} than in "
            f"{other.key}: {names}."
        )
    return left, notes


def _compared(run: _Run, rows: Sequence[PredictionRow]) -> ComparedRun:
    """Return what the N images say of a run."""
    known, correct = run.metrics, [row.correct for row in rows]
    return ComparedRun(
        key=run.key,
        folder=str(run.folder),
        dataset=known.dataset,
        model=known.model,
        method=known.method,
        shots=known.shots,
        seed=known.seed,
        n_test=len(run.rows),
        n_correct=sum(correct),
        accuracy=sum(correct) / len(rows),
        accuracy_interval=wilson_interval(sum(correct), len(rows)),
        ece=top_calibration_error([row.probability for row in rows], correct),
        nll=log_loss([row.label_probability for row in rows]),
        train_seconds=known.train_seconds,
        trainable_parameters=known.trainable_parameters,
    )


def _disputed(runs: Sequence[_Run], keys: Sequence[_ImageKey]) -> Iterator[DisputedImage]:
    """Yield the images that some runs get right and others wrong."""
    for key in keys:
        rows = [run.rows[key] for run in runs]
        correct = tuple(row.correct for row in rows)
        if len(set(correct)) > 1:
            yield DisputedImage(key.name, rows[0].label, tuple(row.predicted for row in rows), correct)
