"""The command ``blocklora predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device, Json, Moved, Run
from blocklora.cli.output import ERR, write
from blocklora.core.files import user_path
from blocklora.core.words import count, printable

if TYPE_CHECKING:
    from blocklora.data import Unreadable
    from blocklora.run.predict import Prediction

__all__ = ["predict"]

_Coverage = Annotated[
    float | None,
    typer.Option(
        help="Add a set of classes that holds the true one so often, such as 0.9.",
        metavar="SHARE",
        show_default="no sets",
    ),
]
_ByClass = Annotated[
    bool, typer.Option("--by-class", help="Mean --coverage for every class with enough held-out images.")
]
_Unknown = Annotated[
    bool, typer.Option("--unknown", help="Answer 'unknown' where an image looks like none of the classes.")
]
_FalseAlarms = Annotated[
    float,
    typer.Option(help="Of images of the classes, how many --unknown may call unknown.", metavar="SHARE"),
]
_Explain = Annotated[
    bool,
    typer.Option("--explain", help="Say why: evidence, nearest training images; in JSON also heat maps."),
]


def predict(
    run: Run,
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, or folders of images.", metavar="IMAGES", parser=user_path),
    ],
    top_k: Annotated[int, typer.Option(help="Classes to show for each image.", min=1)] = 5,
    coverage: _Coverage = None,
    by_class: _ByClass = False,
    unknown: _Unknown = False,
    false_alarms: _FalseAlarms = 0.05,
    explain: _Explain = False,
    model: Moved = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images; one that cannot be read is named, and makes the exit code 1."""
    check_run(run)
    from blocklora.run.find import find_images

    found = find_images(images)
    if found.repeated:
        ERR.print(f"note: {count(found.repeated, 'image')} named more than once, and answered once.")
    from blocklora.cli.console import RunProgress
    from blocklora.run.confidence import alarm_note, promise_of
    from blocklora.run.load import load_run
    from blocklora.run.predict import Asked, Prediction, predict_images

    loaded = load_run(run, device=device, model=model)
    if coverage is not None:
        ERR.print(f"note: {promise_of(loaded.classifier, coverage)}", markup=False, soft_wrap=True)
    if unknown:
        ERR.print(f"note: {alarm_note(loaded.classifier, false_alarms)}", markup=False, soft_wrap=True)
    asked = Asked(top_k, coverage, by_class, false_alarms if unknown else None, explain)
    answers = _JsonAnswers(run, loaded.classifier.base.model_id) if as_json else _TextAnswers()
    bad = list(found.without)
    with RunProgress(ERR) as progress:
        for answer in predict_images(
            loaded, found.files, asked,
            on_batch=lambda done: progress.predicted(done, len(found.files)),
        ):  # fmt: skip
            if isinstance(answer, Prediction):
                answers.add(answer)
            else:
                bad.append(answer)
    answers.end(bad)
    for item in bad:
        ERR.print(f"error: {printable(item.reason)}", style="red", markup=False, soft_wrap=True)
    if bad:
        raise typer.Exit(1)


class _TextAnswers:
    """Answers for people, a line each."""

    def add(self, answer: Prediction) -> None:
        """Write one."""
        top = ("unknown; " if answer.unknown else "") + ", ".join(
            f"{label} {p:.1%}" for label, p in answer.top
        )
        more = "" if answer.set is None else f"; set: {', '.join(answer.set) or 'no class'}"
        write(f"{printable(answer.image)}: {printable(top + more)}\n")
        if answer.reasons:
            evidence = ", ".join(f"{name} {value:+.1f}" for name, value in answer.reasons.evidence)
            write(f"    evidence above the mean of all classes: {printable(evidence)}\n")
            for name, label, cosine in answer.reasons.nearest:
                write(f"    like {printable(name)} ({printable(label)}, cosine {cosine:.2f})\n")

    def end(self, unreadable: Sequence[Unreadable]) -> None:
        """Write nothing: what could not be read is said on stderr."""


class _JsonAnswers:
    """Answers as one JSON document, which is never whole in memory."""

    def __init__(self, run: Path, model: str) -> None:
        self._before = f'{{"run": {json.dumps(str(run))}, "model": {json.dumps(model)}, "predictions": [\n'

    def add(self, answer: Prediction) -> None:
        """Write one."""
        top = [{"label": name, "probability": value} for name, value in answer.top]
        write(self._before + json.dumps({"image": answer.image, **top[0], "top": top, **_asked_for(answer)}))
        self._before = ",\n"

    def end(self, unreadable: Sequence[Unreadable]) -> None:
        """Write what could not be read, and close the document."""
        start = self._before if self._before[0] == "{" else ""
        left = json.dumps([{"image": item.image, "reason": item.reason} for item in unreadable])
        write(f'{start}],\n"unreadable": {left}}}\n')


def _asked_for(answer: Prediction) -> dict[str, Any]:
    """Return what an answer holds beside its classes, for JSON; an unknown thing has the label 'unknown'."""
    more: dict[str, Any] = {} if answer.set is None else {"set": answer.set}
    if answer.chance_known is not None:
        more |= {"unknown": answer.unknown, "chance_known": answer.chance_known}
    if answer.reasons is not None:
        more["reasons"] = {
            "evidence": [{"label": name, "above_mean": value} for name, value in answer.reasons.evidence],
            "nearest": [
                {"image": name, "label": label, "cosine": value}
                for name, label, value in answer.reasons.nearest
            ],
            "heat_map": answer.reasons.heat,
        }
    return more | ({"label": "unknown"} if answer.unknown else {})
