"""The options that commands share, in the groups in which ``--help`` shows them.

A command whose options are many takes a dataclass of them, see ``takes``. What is a
setting of the method is None here unless it was typed, so that each method keeps its own defaults; ``--help`` shows
those of block-lora.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Annotated, Any

import typer

from blocklora.cli.known import CHOICES, METHODS
from blocklora.core.files import user_path

__all__ = [
    "BaseModel",
    "DataPath",
    "Debug",
    "Device",
    "FitOptions",
    "Json",
    "Moved",
    "Out",
    "Revision",
    "Root",
    "Run",
    "RunOptions",
    "TransferOptions",
    "Verbose",
]


def _option(help_: str, panel: str, default: str | bool = False, *names: str, **more: Any) -> Any:
    """Return an option that is None by default, and what ``--help`` shows in the place of None."""
    return typer.Option(*names, help=help_, show_default=default, rich_help_panel=panel, **more)


def _file(help_: str, panel: str) -> Any:
    """Return an option that takes a file, and is None by default."""
    return _option(help_, panel, metavar="FILE", parser=expanduser)


def _choice(name: str, help_: str, panel: str, default: str | bool) -> Any:
    """Return an option that takes one of a few words."""
    return _option(help_, panel, default, metavar="|".join(CHOICES[name]))


_DATA, _CLASSES = "Data", "Model, method and prompts"
_TRAINING, _ADAPTER = "Training (defaults of block-lora)", "Adapter (defaults of block-lora)"
_MACHINE, _OUTPUT = "Machine", "Output"

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document on stdout, and nothing else there.", rich_help_panel=_OUTPUT
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of a failure.", rich_help_panel=_OUTPUT)
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", help="Say how steps are computed and how much memory they take.", rich_help_panel=_OUTPUT
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where to compute: auto takes the GPU if there is one.",
        metavar="auto|cpu|cuda|cuda:N|mps",
        rich_help_panel=_MACHINE,
    ),
]
Moved = Annotated[
    str | None,
    _option(
        "Where the base model is now, if it has moved since the fit.",
        _MACHINE,
        "where it was",
        "--model",
        metavar="MODEL",
        parser=expanduser,
    ),
]
Root = Annotated[
    str | None,
    _option(
        "The folder that holds the data sets' folders (caltech-101/, dtd/, ...).",
        _DATA,
        metavar="FOLDER",
        parser=expanduser,
    ),
]
Out = Annotated[
    Path,
    typer.Option(help="The folder to make, or to go on with.", metavar="FOLDER", parser=user_path),
]
Run = Annotated[
    Path, typer.Argument(help="A RUN folder, as 'blocklora fit' makes it.", metavar="RUN", parser=user_path)
]
BaseModel = Annotated[
    str,
    typer.Option(
        help="A CLIP model's id on the Hugging Face hub, a folder, or tiny (bundled, offline).",
        rich_help_panel=_CLASSES,
        parser=expanduser,
        metavar="MODEL",
    ),
]
Revision = Annotated[
    str | None,
    _option("A branch, tag or commit of the model on the hub.", _CLASSES, "main", metavar="REVISION"),
]
DataPath = Annotated[
    str,
    typer.Argument(
        help="A folder of class folders, a CSV or Parquet table, a bundled task such as digits, hf:NAME, or, with "
        "--root, a name that 'blocklora datasets' lists.",
        metavar="DATA",
        parser=expanduser,
    ),
]


@dataclass(frozen=True)
class FitOptions:
    """The options of every command that fits."""

    data: DataPath
    root: Root = None
    shots: Annotated[int | None, _option("Training images a class.", _DATA, "all")] = None
    seed: Annotated[int, typer.Option(help="Where all randomness comes from.", rich_help_panel=_DATA)] = 0
    protocol: Annotated[
        str, _choice("protocol", "How the shots are drawn, bit for bit as published.", _DATA, True)
    ] = "coop"
    index: Annotated[
        str | None,
        _file("A JSON file that names the training images, in the place of sampling.", _DATA),
    ] = None
    class_names: Annotated[
        str | None,
        _file("A file with other words for the classes: one a line, or JSON.", _DATA),
    ] = None
    add: Annotated[
        list[str] | None,
        _file("A CSV file of images and labels that train, too; may be repeated.", _DATA),
    ] = None
    model: BaseModel = "openai/clip-vit-base-patch16"
    revision: Revision = None
    method: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(METHODS)}; auto tries many of them. docs/methods.md explains them.",
            rich_help_panel=_CLASSES,
            metavar="METHOD",
        ),
    ] = "block-lora"
    prompt: Annotated[
        list[str] | None,
        _option(
            "Sentence with {} for the class name. Of several, the first trains and their mean predicts.",
            _CLASSES,
            "the data set's own",
        ),
    ] = None
    prompts: Annotated[
        str | None, _choice("prompts", "CLIP's published ensemble that predicts.", _CLASSES, False)
    ] = None
    set_: Annotated[
        list[str] | None,
        _option(
            "A setting of the method that has no option here. May be repeated.",
            _CLASSES,
            False,
            "--set",
            metavar="NAME=VALUE",
        ),
    ] = None
    peft_config: Annotated[
        str | None,
        _file("The adapter of method peft: PEFT's JSON file.", _CLASSES),
    ] = None
    iterations: Annotated[int | None, _option("Steps in all.", _TRAINING, "500 a shot")] = None
    batch_size: Annotated[int | None, _option("Images a step.", _TRAINING, "32")] = None
    lr: Annotated[float | None, _option("Learning rate.", _TRAINING, "0.0002, for tiny 0.004")] = None
    weight_decay: Annotated[float | None, _option("Weight decay of AdamW.", _TRAINING, "0.01")] = None
    time_limit: Annotated[
        str | None,
        _option(
            "The time in which everything is to be done, such as 90s, 10m or 2h: as many steps as there is time for.",
            _TRAINING,
            "none",
            metavar="TIME",
        ),
    ] = None
    augment: Annotated[
        str | None,
        _choice(
            "augment", "Take crop where a mirror image is another class.", _TRAINING, "crop-flip"
        ),
    ] = None  # fmt: skip
    r: Annotated[int | None, _option("Total rank.", _ADAPTER, "2")] = None
    n_blocks: Annotated[int | None, _option("Blocks that the rank is cut into.", _ADAPTER, "2")] = None
    alpha: Annotated[float | None, _option("The scale is alpha / sqrt(r).", _ADAPTER, "1.0")] = None
    dropout: Annotated[float | None, _option("Dropout on the adapter's input.", _ADAPTER, "0.25")] = None
    parametrization: Annotated[
        str | None,
        _choice("parametrization", "folded is the same with fewer parameters.", _ADAPTER, "blocks"),
    ] = None
    towers: Annotated[
        str | None, _choice("towers", "Which of CLIP's towers are adapted.", _ADAPTER, "both")
    ] = None
    targets: Annotated[str | None, _option("Layers: some of q,k,v,out,fc1,fc2.", _ADAPTER, "q,k,v")] = None
    layers: Annotated[
        str | None,
        _option("Which of a tower's layers.", _ADAPTER, "all", metavar="all|top-N|bottom-N"),
    ] = None
    engine: Annotated[
        str | None,
        _choice("engine", "lean is fast; plain is transformers' own forward.", _MACHINE, "auto"),
    ] = None
    prefix_sharing: Annotated[
        str | None,
        _choice("prefix_sharing", "Compute the opening that all prompts share once.", _MACHINE, "on"),
    ] = None
    memory_limit: Annotated[
        str | None,
        _option("The most memory that training may use, such as 24GB.", _MACHINE, "what is free"),
    ] = None
    cached_views: Annotated[
        int | None,
        _option(
            "With --layers top-N: train on so many fixed views of each image, whose lower layers run once; 0: as fit.",
            _MACHINE,
            "new crops in every step",
        ),
    ] = None
    precision: Annotated[str, _choice("precision", "Of the computation.", _MACHINE, True)] = "auto"
    device: Device = "auto"
    out: Annotated[
        Path | None,
        _option(
            "The folder to make.", _OUTPUT, "runs/DATA-METHOD-SHOTS-SEED", metavar="FOLDER", parser=user_path
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run.", rich_help_panel=_OUTPUT)
    ] = False
    as_json: Json = False
    verbose: Verbose = False
    debug: Debug = False


@dataclass(frozen=True)
class RunOptions(FitOptions):
    """The options of ``fit`` alone."""

    test: Annotated[
        str | None,
        _choice(
            "test",
            "Without a test part: all images take turns as test images, and all are fitted to.",
            _DATA,
            "a quarter is held out",
        ),
    ] = None
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Afterwards fit what was chosen to all images, test images too, for the classifier in the folder.",
            rich_help_panel=_DATA,
        ),
    ] = False


@dataclass(frozen=True)
class TransferOptions(FitOptions):
    """The options of ``cross-dataset`` and ``domain-generalization``."""

    data: DataPath = "imagenet"
    to: Annotated[
        str,
        typer.Option(
            help="Names of the data sets to test on, with commas between them.", rich_help_panel=_DATA
        ),
    ] = ""
