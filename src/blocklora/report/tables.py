"""What the report's tables and pictures show, worked out from the metrics. C classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from blocklora.core.errors import DataError
from blocklora.report.words import count, duration, memory, percent

__all__ = [
    "class_tables",
    "confused_pairs",
    "confusion_view",
    "facts",
    "file_lists",
    "picture_cards",
    "thumbnail",
]

MOST_CLASSES_SHOWN = 40  # with more, the table opens with the worst ones, and pairs replace the matrix
WORST_CLASSES = 20
MOST_PAIRS = 15
MOST_PATHS = 500  # of each part; split.json has all
THUMBNAIL = 160  # pixels, the longer side

OpenPicture = Callable[[str], "Image.Image | None"]


def class_tables(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One table of all classes, or for many classes the worst ones first and then all, folded away.

    Args:
        rows: ``per_class`` of ``metrics.evaluate``.

    Returns:
        Tables of ``title`` (None, or the words to unfold it) and ``rows``, the worst class first.
    """
    worst_first = sorted(rows, key=lambda row: 2.0 if row["accuracy"] is None else row["accuracy"])
    if len(rows) <= MOST_CLASSES_SHOWN:
        return [{"title": None, "rows": worst_first}]
    return [
        {"title": None, "rows": worst_first[:WORST_CLASSES]},
        {"title": f"All {len(rows):,} classes", "rows": list(rows)},
    ]


def confused_pairs(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs of classes that are confused most often.

    Args:
        confusion: (C, C) counts, rows are the true classes.
        class_names: C names.

    Returns:
        At most 15 of ``true``, ``predicted``, ``n`` pictures and ``of``, the test pictures of the true class.
    """
    counts = np.array(confusion)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MOST_PAIRS]
    places = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, counts.shape), strict=True)]
    return [
        {"true": class_names[i], "predicted": class_names[j], "n": int(counts[i, j]), "of": int(totals[i])}
        for i, j in places
        if counts[i, j]
    ]


def confusion_view(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The confusion matrix as a heat map for few classes, and the pairs confused most often for any number.

    Returns:
        ``names``; ``rows`` of (name, cells of (count, share of the row)), None for many classes; ``pairs``.
    """
    confusion = metrics.get("confusion")
    if not confusion:
        return None
    names = [row["class_name"] for row in metrics["per_class"]]
    pairs = confused_pairs(confusion, names)
    if len(names) > MOST_CLASSES_SHOWN:
        return {"names": names, "rows": None, "pairs": pairs}
    cells = [[(n, n / max(sum(row), 1)) for n in row] for row in confusion]
    return {"names": names, "rows": list(zip(names, cells, strict=True)), "pairs": pairs}


def facts(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained and at what cost, as (name, value); what is not known is left out."""
    trained, total = metrics.get("trainable_parameters"), metrics.get("total_parameters")
    share = f" ({100 * trained / total:.2g}% of {total:,})" if trained is not None and total else ""
    temperature = metrics.get("temperature")
    known = [
        ("Model", metrics.get("model")),
        ("Method", metrics.get("method")),
        ("Prompt", metrics.get("prompt")),
        ("Trained parameters", None if trained is None else f"{trained:,}{share}"),
        ("Training time", _maybe(metrics.get("train_seconds"), duration)),
        ("Peak memory", _maybe(metrics.get("peak_memory_bytes"), memory)),
        ("Engine", _engine(metrics.get("engine") or {})),
        ("Device", metrics.get("device")),
        ("Precision", metrics.get("precision")),
        ("Temperature", None if temperature is None else f"{temperature:.3g} (logits are divided by it)"),
        ("Mean accuracy over classes", _maybe(metrics.get("mean_class_accuracy"), percent)),
        ("Negative log-likelihood", _maybe(metrics.get("nll"), lambda nll: f"{nll:.3f} nats a picture")),
    ]
    return [(name, str(value)) for name, value in known if value is not None]


def _engine(engine: Mapping[str, Any]) -> str | None:
    """Which engine computed the towers, by which plan, and whether its memory was as predicted."""
    if not engine:
        return None
    why = f" ({engine['why_not_lean']})" if engine.get("why_not_lean") else ""
    plan = engine.get("plan", {}).get("words")
    predicted, measured = engine.get("predicted_peak_bytes"), engine.get("measured_peak_bytes")
    peak = (
        f"; peak in training {memory(measured)}, predicted {memory(predicted)}"
        if predicted and measured
        else ""
    )
    return f"{engine.get('engine')}{why}{f': {plan}' if plan else ''}{peak}"


def file_lists(files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each part: ``title``, the first paths, and how many more there are. A part may be only a number."""
    lists = []
    for part in ("train", "val", "test"):
        held = files.get(part)
        if held is None:
            continue
        paths, n = ([], held) if isinstance(held, int) else (list(held[:MOST_PATHS]), len(held))
        lists.append({"title": f"{part}: {count(n, 'picture')}", "paths": paths, "more": n - len(paths)})
    return lists


def picture_cards(mistakes: Sequence[Mapping[str, Any]], open_picture: OpenPicture) -> list[dict[str, Any]]:
    """The mistakes, each with its thumbnail as a data address, or None where the picture cannot be had."""
    return [{**mistake, "thumbnail": thumbnail(mistake["image"], open_picture)} for mistake in mistakes]


def thumbnail(image: str, open_picture: OpenPicture) -> dict[str, Any] | None:
    """A small copy of a picture to stand in the page itself.

    Args:
        image: The picture's name.
        open_picture: Gives the picture, or None.

    Returns:
        ``address`` ("data:image/..."), ``width`` and ``height`` to show it at, and ``tiny``, true if it is
        magnified; None if the picture cannot be had (a report must not fail for one picture).
    """
    try:
        picture = open_picture(image)
        if picture is None:
            return None
        small = picture.convert("RGB")
    except (DataError, OSError):
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    longer = max(small.size)
    tiny = longer <= THUMBNAIL // 2
    buffer = io.BytesIO()
    if tiny:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=80, optimize=True)
    scale = THUMBNAIL // longer if tiny else 1
    kind = "png" if tiny else "jpeg"
    return {
        "address": f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        "width": small.width * scale,
        "height": small.height * scale,
        "tiny": tiny,
    }


def _maybe(value: Any, words: Callable[[Any], str]) -> str | None:
    return None if value is None else words(value)
