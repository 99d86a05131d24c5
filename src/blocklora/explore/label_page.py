"""The files of ``suggest``: to_label.csv, and a page to label the images on."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from blocklora.core.errors import ImageError
from blocklora.core.files import write_text
from blocklora.core.words import count
from blocklora.data import open_image
from blocklora.explore.suggest import Suggested
from blocklora.report.html import render, write_page

__all__ = ["PAGE", "TABLE", "write_suggestions"]

PAGE, TABLE = "label.html", "to_label.csv"
_SIDE, _QUALITY = 320, 80  # of the copies on the page, in pixels


def write_suggestions(found: Suggested, folder: Path) -> None:
    """Write to_label.csv and label.html, each whole or not at all.

    Args:
        found: What to label.
        folder: Where to; it is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "label", "why", "score", "guess", "probability"))
    for one in found.images:
        row = (one.path, "", one.why, f"{one.score:.4f}", one.guess, f"{one.probability:.4f}")
        writer.writerow(row)
    write_text(folder / TABLE, text.getvalue())
    write_page(folder / PAGE, _page(found))


def _page(found: Suggested) -> str:
    """Return the page; its images are text in one JSON object, and are shown as they come near."""
    images = [
        {"path": str(one.path), "name": one.path.name, "why": one.why, "guess": one.guess,
         "probability": round(one.probability, 4), "src": _copy(one.path)}
        for one in found.images
    ]  # fmt: skip
    facts = {
        "key": hashlib.sha256(
            "\n".join(str(one.path) for one in found.images).encode("utf-8", "replace")
        ).hexdigest()[:16],
        "classes": found.classes,
        "images": images,
    }
    data = json.dumps(facts).replace("<", "\\u003c")  # so that no name ends the script
    return render(
        "label.html",
        room="explore",
        script="label.js",
        title=f"{count(len(images), 'image')} to label",
        notes=found.notes,
        data=Markup(data),
    )


def _copy(path: Path) -> str:
    """Return a small copy of an image as an address."""
    try:
        image = open_image(path, min_side=_SIDE)
    except ImageError:  # gone in the meantime
        return ""
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
