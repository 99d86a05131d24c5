"""What is wrong with a set of labelled images: one pass over them, then every kind of finding from what was kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from blocklora.clip import crop_size, load_image_tower
from blocklora.core.device import Compute, resolve_device, resolve_precision
from blocklora.core.errors import DataError
from blocklora.core.words import count
from blocklora.data import Dataset, Example, Source, Unreadable, content_digests, missing, read_dataset
from blocklora.findings.find import find_faults, gravest_first
from blocklora.findings.finding import Finding
from blocklora.findings.looking import look_at
from blocklora.findings.wording import Checked

__all__ = ["CheckResult", "check_data"]


@dataclass(frozen=True)
class CheckResult:
    """What was found.

    Attributes:
        name: Of the data.
        model: The model that looked.
        parts: How many images each part has, unreadable ones included.
        n_classes: How many classes.
        findings: The gravest kind first, within a kind the worst first.
        notes: What to mind, a sentence each.
        sources: Where the pixels of each are, by name.
    """

    name: str
    model: str
    parts: dict[str, int]
    n_classes: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    sources: dict[str, Source]


def check_data(
    data: str,
    *,
    model: str,
    root: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    on_batch: Callable[[int, int], None] | None = None,
) -> CheckResult:
    """Look once at every image of a data set, all parts, and say what is wrong with them.

    Args:
        data: A folder, a table, ``hf:NAME``, a bundled task's name, or a data set's name with ``root``.
        model: Whose features are compared.
        root: The folder that holds the folders of the data sets.
        revision: Of the model on the hub.
        device: Where to compute.
        on_batch: Called with the number of images that are done, and how many there are.

    Raises:
        DataError: The data cannot be read, or no image of it.
        ModelError: The model cannot be loaded.
    """
    found = read_dataset(data, root, training=False)
    items = [(part, one) for part in ("train", "val", "test") for one in getattr(found, part)]
    _check_there(found, [one for _, one in items])
    where = resolve_device(device)
    base = load_image_tower(model, revision)
    torch.nn.Module.to(base.model, where)
    compute = Compute(where, resolve_precision("auto", where))
    named = [(one.image, one.source) for _, one in items]
    looked = look_at(named, base, compute, (lambda n: on_batch(n, len(named))) if on_batch else None)
    if not len(looked.kept):
        raise DataError(
            f"{found.name}: none of {count(len(items), 'image')} can be read: {looked.unreadable[0].reason}"
        )
    kept = [items[place] for place in looked.kept]
    contents = content_digests([named[place] for place in looked.kept])
    checked = Checked(
        tuple(one.image for _, one in kept),
        tuple(part for part, _ in kept),
        np.array([one.label for _, one in kept]),
        found.class_names,
    )
    findings, notes = find_faults(checked, looked, contents, crop_size(base.processor))
    described = {one.image: (found.class_names[one.label], part) for part, one in items}
    return CheckResult(
        found.name,
        base.model_id,
        {part: len(getattr(found, part)) for part in ("train", "val", "test") if getattr(found, part)},
        len(found.class_names),
        gravest_first([*findings, *(_unreadable(one, described[one.image]) for one in looked.unreadable)]),
        (*found.notes, *notes),
        dict(named),
    )


def _unreadable(one: Unreadable, described: tuple[str, str]) -> Finding:
    """Return the finding of an image that cannot be read, of a label and a split."""
    what = one.reason.removeprefix(f"{one.image}: ")
    label, part = described
    return Finding("unreadable", (one.image,), 1.0, what, ("remove",), labels=(label,), parts=(part,))


def _check_there(found: Dataset, images: Sequence[Example]) -> None:
    """Raise unless there are images, and their files."""
    if not images:
        raise DataError(f"{found.name}: there are no images")
    if gone := missing(images):
        raise DataError(
            f"{found.name}: {count(len(gone), 'image')} of {len(images)} not found, e.g. {gone[0]}: put them back"
        )
