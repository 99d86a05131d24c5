"""What the report's tables and images show, worked out from the metrics. C classes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from blocklora.core.errors import DataError
from blocklora.metrics import ClassResult, Evaluation, confusion_matrix
from blocklora.report.run_metrics import ConfusedPair, Mistake, PartFiles, RunMetrics
from blocklora.report.words import count, duration, memory, percent, short_names

__all__ = [
    "Card",
    "ClassTable",
    "ConfusionView",
    "FileList",
    "OpenImage",
    "Thumbnail",
    "class_tables",
    "confused_cells",
    "confused_pairs",
    "confusion_view",
    "facts",
    "file_lists",
    "heated",
    "image_cards",
    "thumbnail",
]

MOST_CLASSES_SHOWN = 40  # with more, the table opens with the worst ones, and pairs replace the matrix
WORST_CLASSES = 50
MOST_LISTED = 5000  # with more, the page would be of several megabytes: it shows the worst classes only
MOST_PAIRS = 15
SHORT_NAME = 3  # letters that fit over a column of the matrix
THUMBNAIL = 160  # pixels, the longer side
HEAT = 96  # of heat maps and the nearest training images

OpenImage = Callable[[str], "Image.Image | None"]


@dataclass(frozen=True)
class ClassTable:
    """Rows of classes; ``title`` is None, or the words to unfold them."""

    title: str | None
    rows: list[ClassResult]


@dataclass(frozen=True)
class ConfusionView:
    """Class names, the rows of the matrix as (name, cells of (count, share of the row)) for few classes, and pairs."""

    names: list[str]
    rows: list[tuple[str, list[tuple[int, float]]]] | None
    pairs: list[ConfusedPair]

    @property
    def short(self) -> bool:
        """Whether every name fits over a column as it is."""
        return max(map(len, self.names)) <= SHORT_NAME


@dataclass(frozen=True)
class FileList:
    """The images of a part: a title, the first names, and how many more there are."""

    title: str
    names: list[str]
    more: int


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image as a data address, the size to show it at, and whether that magnifies it."""

    address: str
    width: int
    height: int
    tiny: bool


@dataclass(frozen=True)
class Card:
    """A mistake, and what is shown of it; an image is None where it cannot be had.

    Attributes:
        mistake: The mistake.
        name: The name to show.
        thumbnail: The image.
        heat: The square that the model sees, with the patches that spoke for the answer.
        nearest: The nearest training images: name, class, image.
    """

    mistake: Mistake
    name: str
    thumbnail: Thumbnail | None
    heat: Thumbnail | None
    nearest: list[tuple[str, str, Thumbnail | None]]


def class_tables(rows: Sequence[ClassResult]) -> list[ClassTable]:
    """One table of all classes, or for many classes the worst ones first and then all, or 5,000, folded away."""
    worst_first = sorted(rows, key=lambda row: 2.0 if row.accuracy is None else row.accuracy)
    if len(rows) <= MOST_CLASSES_SHOWN:
        return [ClassTable(None, worst_first)]
    if len(rows) <= MOST_LISTED:
        others = ClassTable(f"All {count(len(rows), 'class')}", list(rows))
    else:
        title = (
            f"{MOST_LISTED:,} of {count(len(rows), 'class')}, the lowest recall first; metrics.json has all"
        )
        others = ClassTable(title, worst_first[:MOST_LISTED])
    return [ClassTable(None, worst_first[:WORST_CLASSES]), others]


def confused_cells(evaluation: Evaluation) -> list[tuple[int, int, int]]:
    """At most 15 cells (label, predicted, n) off the diagonal of the confusion matrix, the largest first."""
    wrong = [cell for cell in evaluation.confusion_counts if cell[0] != cell[1]]
    return sorted(wrong, key=lambda cell: -cell[2])[:MOST_PAIRS]


def confused_pairs(evaluation: Evaluation) -> list[ConfusedPair]:
    """The pairs of classes of ``confused_cells``, in the same order."""
    classes = evaluation.per_class
    return [
        ConfusedPair(classes[label].class_name, classes[predicted].class_name, n, classes[label].n_test)
        for label, predicted, n in confused_cells(evaluation)
    ]


def confusion_view(evaluation: Evaluation) -> ConfusionView:
    """The confusion matrix as a heat map for few classes, and the pairs confused most often for any number."""
    names = [row.class_name for row in evaluation.per_class]
    pairs = confused_pairs(evaluation)
    if len(names) > MOST_CLASSES_SHOWN:
        return ConfusionView(names, None, pairs)
    matrix = confusion_matrix(evaluation.confusion_counts, len(names)).tolist()
    cells = [[(n, n / max(sum(row), 1)) for n in row] for row in matrix]
    return ConfusionView(names, list(zip(names, cells, strict=True)), pairs)


def facts(metrics: RunMetrics) -> list[tuple[str, str]]:
    """What was trained and at what cost, as (name, value); what is not known is left out."""
    model, temperature, found = metrics.model, metrics.temperature, metrics.evaluation
    known = [
        ("Model", model and short_names([model])[model]),
        ("Method", metrics.method),
        ("Prompt", metrics.prompt),
        ("Trainable parameters", _parameters(metrics)),
        ("Training time", _maybe(metrics.train_seconds, duration)),
        ("Peak memory", _maybe(metrics.peak_memory_bytes, memory)),
        ("Engine", _engine(metrics.engine)),
        ("Device", metrics.device),
        ("Precision", metrics.precision),
        ("Temperature", _maybe(temperature, lambda t: f"{t:.3g} (logits are divided by it)")),
        ("Mean recall of the classes", percent(found.mean_class_accuracy)),
        ("Negative log-likelihood", f"{found.nll:.3f} nats an image"),
    ]
    return [(name, str(value)) for name, value in known if value is not None]


def _parameters(metrics: RunMetrics) -> str | None:
    trained, total = metrics.trainable_parameters, metrics.total_parameters
    if trained is None:
        return None
    return f"{trained:,} ({100 * trained / total:.2g}% of {total:,})" if total else f"{trained:,}"


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


def file_lists(files: Mapping[str, PartFiles], shown: Mapping[str, str]) -> list[FileList]:
    """For each part that is known: how many images, and the first ones by the name to show."""
    parts = [(part, files[part]) for part in ("train", "val", "test") if part in files]
    return [
        FileList(
            f"{part}: {count(held.n, 'image')}",
            [shown[name] for name in held.first],
            held.n - len(held.first),
        )
        for part, held in parts
    ]


def image_cards(mistakes: Sequence[Mistake], shown: Mapping[str, str], open_image: OpenImage) -> list[Card]:
    """The mistakes, each with the name to show, its thumbnail, heat map and nearest training images."""
    return [
        Card(
            mistake,
            shown[mistake.image],
            thumbnail(mistake.image, open_image),
            _heat(mistake, open_image),
            [(shown[n], label, thumbnail(n, open_image, HEAT)) for n, label, _ in mistake.nearest],
        )
        for mistake in mistakes
    ]


def _heat(mistake: Mistake, open_image: OpenImage) -> Thumbnail | None:
    """The heat map of a mistake, if it has one."""
    if not mistake.heat:
        return None

    def open_heated(name: str) -> Image.Image | None:
        return heated(open_image(name), mistake.heat)

    return thumbnail(mistake.image, open_heated, HEAT)


def heated(image: Image.Image | None, heat: Sequence[Sequence[float]]) -> Image.Image | None:
    """The square in the middle of an image, grey, with patches red that spoke for the answer, and blue against it.

    Args:
        image: The image, or None.
        heat: Rows of patches, in [-1, 1].

    Returns:
        A new image; None if there was none.
    """
    if image is None:
        return None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("L").crop((left, top, left + side, top + side)).resize((HEAT, HEAT))
    size, values = (len(heat[0]), len(heat)), [value for row in heat for value in row]
    colours, strength = Image.new("RGB", size), Image.new("L", size)
    colours.putdata([(215, 40, 40) if value > 0 else (40, 90, 215) for value in values])
    strength.putdata([round(150 * abs(value)) for value in values])
    large = (HEAT, HEAT)
    return Image.composite(
        colours.resize(large, Image.Resampling.NEAREST),
        square.convert("RGB"),
        strength.resize(large, Image.Resampling.BILINEAR),
    )


def thumbnail(image: str, open_image: OpenImage, side: int = THUMBNAIL) -> Thumbnail | None:
    """A small copy of an image to stand in the page itself.

    Args:
        image: The image's name.
        open_image: Gives the image, or None.
        side: The longer side, in pixels.

    Returns:
        The copy; None if the image cannot be had (a report must not fail for one image).
    """
    try:
        opened = open_image(image)
        if opened is None:
            return None
        small = opened.convert("RGB")
    except (DataError, OSError):
        return None
    small.thumbnail((side, side))
    longer = max(small.size)
    tiny = longer <= side // 2
    buffer = io.BytesIO()
    if tiny:
        small.save(buffer, "PNG", optimize=True)
    else:
        small.save(buffer, "JPEG", quality=80, optimize=True)
    scale = side // longer if tiny else 1
    kind = "png" if tiny else "jpeg"
    return Thumbnail(
        address=f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        width=small.width * scale,
        height=small.height * scale,
        tiny=tiny,
    )


def _maybe(value: Any, words: Callable[[Any], str]) -> str | None:
    return None if value is None else words(value)
