"""The command ``blocklora predict``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device, Json, Moved, Run, takes
from blocklora.cli.output import ERR, write
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path
from blocklora.core.shards import Shard
from blocklora.core.words import count, printable

if TYPE_CHECKING:
    from blocklora.data import Unreadable
    from blocklora.run.predict import Asked, Prediction
    from blocklora.run.table.work import TableOrder

__all__ = ["predict"]

_TABLE = "Tables of many images"

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


def _path(help_: str, metavar: str, *names: str) -> Any:
    """Return an option of a table that takes a path."""
    return typer.Option(*names, help=help_, metavar=metavar, parser=user_path, rich_help_panel=_TABLE)


@dataclass(frozen=True)
class PredictOptions:
    """The options of ``predict``."""

    run: Run
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, or folders of images; with --ray also URIs such as s3://bucket/folder, and Parquet tables.",
            metavar="IMAGES",
            parser=expanduser,
        ),
    ]
    top_k: Annotated[
        int | None,
        typer.Option(help="Classes to name for each image.", min=1, show_default="5; in a table 1"),
    ] = None
    coverage: _Coverage = None
    by_class: _ByClass = False
    unknown: _Unknown = False
    false_alarms: _FalseAlarms = 0.05
    explain: _Explain = False
    out: Annotated[
        Path | None,
        _path(
            "Write a table: .csv, .jsonl or .parquet. The same command goes on after an interruption.", "FILE"
        ),
    ] = None
    abstain_below: Annotated[
        float | None,
        typer.Option(
            "--abstain-below", "--threshold",
            help="Give no label where the probability is lower.", metavar="P", rich_help_panel=_TABLE,
        ),
    ] = None  # fmt: skip
    move_to: Annotated[
        Path | None, _path("Move each image into the folder of its class below this one.", "FOLDER")
    ] = None
    copy_to: Annotated[
        Path | None, _path("Copy each image into the folder of its class below this one.", "FOLDER")
    ] = None
    features: Annotated[
        Path | None, _path("Write unit features, too: a row for each row of the table (.npy).", "FILE")
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            help="Answer part I of N alone; OUT gets '.I-of-N' into its name.", metavar="I/N",
            rich_help_panel=_TABLE,
        ),
    ] = None  # fmt: skip
    ray: Annotated[
        str | None,
        typer.Option(
            help="Fill a folder of Parquet files, OUT, on a Ray cluster; auto is the one here, or one made of this "
            "machine.",
            metavar="auto|ADDRESS",
            rich_help_panel=_TABLE,
        ),
    ] = None
    model: Moved = None
    device: Device = "auto"
    as_json: Json = False
    debug: Debug = False


@takes(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Classify images; one that cannot be read is named, and makes the exit code 1.

    With --out, folders of any size become a table, and an image that cannot be read a row with the reason.
    """
    check_run(options.run)
    if options.ray is not None:
        _on_ray(options)
        return
    for place in options.images:
        if "://" in place:
            raise ConfigError(
                f"{place}: is read on a Ray cluster only; add --ray auto, which takes this machine."
            )
    if options.out is not None:
        from blocklora.cli.table import predict_table

        predict_table(_order(options), device=options.device, model=options.model, as_json=options.as_json)
        return
    for name in ("abstain_below", "move_to", "copy_to", "features", "shard"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} needs --out, the table that it belongs to.")
    _say_answers(options)


def _asked(options: PredictOptions, top_k: int) -> Asked:
    """Return what is asked for of each image; ``top_k`` where nobody says how many classes to name."""
    from blocklora.run.predict import Asked

    if options.explain and options.out is not None:
        raise ConfigError("--explain: not with --out; name single images, and leave --out out.")
    alarms = options.false_alarms if options.unknown else None
    return Asked(options.top_k or top_k, options.coverage, options.by_class, alarms, options.explain)


def _order(options: PredictOptions) -> TableOrder:
    """Return which table is asked for."""
    from blocklora.run.table.work import TableOrder, check_order

    assert options.out is not None
    shard = Shard.parse(options.shard) if options.shard else None
    order = TableOrder(
        run=options.run,
        inputs=[Path(place) for place in options.images],
        out=shard.file(options.out) if shard else options.out,
        asked=_asked(options, top_k=1),
        abstain_below=options.abstain_below or 0.0,
        features=shard.file(options.features) if shard and options.features else options.features,
        move_to=options.move_to,
        copy_to=options.copy_to,
        shard=shard,
    )
    check_order(order)
    return order


def _on_ray(options: PredictOptions) -> None:
    """Fill a folder of parts."""
    for name in ("move_to", "copy_to", "features", "shard"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: not with --ray; leave one of them out.")
    if options.out is None:
        raise ConfigError("--ray needs --out, a folder that every machine reaches by that name.")
    if options.device != "auto":
        raise ConfigError(
            "--device: not with --ray, which takes the cluster's GPUs, or its cores where it has none."
        )
    from blocklora.cli.table import predict_blocks
    from blocklora.run.table.blocks import BlockOrder, as_input

    order = BlockOrder(
        run=Path(os.path.abspath(options.run)),
        inputs=[as_input(place) for place in options.images],
        out=Path(os.path.abspath(options.out)),
        asked=_asked(options, top_k=1),
        abstain_below=options.abstain_below or 0.0,
    )
    predict_blocks(order, str(options.ray), model=options.model, as_json=options.as_json)


def _say_answers(options: PredictOptions) -> None:
    """Answer on stdout, as text or JSON."""
    from blocklora.run.find import find_images

    found = find_images([Path(place) for place in options.images])
    if found.repeated:
        ERR.print(f"note: {count(found.repeated, 'image')} named more than once, and answered once.")
    from blocklora.cli.progress import RunProgress
    from blocklora.run.load import load_run
    from blocklora.run.predict import Prediction, notes_on, predict_images

    run, as_json = options.run, options.as_json
    loaded = load_run(run, device=options.device, model=options.model)
    for note in notes_on(run, loaded.classifier, _asked(options, top_k=5)):
        ERR.print(f"note: {note}", markup=False, soft_wrap=True)
    answers = _JsonAnswers(run, loaded.classifier.base.model_id) if as_json else _TextAnswers()
    bad = list(found.without)
    with RunProgress(ERR) as progress:
        for answer in predict_images(
            loaded, found.files, _asked(options, top_k=5),
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
            "why_no_heat_map": answer.reasons.why_no_heat,
        }
    return more | ({"label": "unknown"} if answer.unknown else {})
