"""The command line: ``blocklora demo | fit | evaluate | predict``.

Heavy modules are imported inside the commands, so that ``--help`` answers at once. Results go to stdout, all
else to stderr. Exit code 0: done; 1: it failed, with one line that says why; 2: the command was wrong;
130: stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from blocklora.errors import BlockloraError

__all__ = ["app", "main"]

app = typer.Typer(
    name="blocklora",
    help="A CLIP classifier from a handful of labelled images, by Block-LoRA.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_err = Console(stderr=True, highlight=False)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


def main() -> None:
    """Run the command line; a failure is one line on stderr and exit code 1."""
    try:
        app(prog_name="blocklora")
    except BlockloraError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}.")
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)")


def _fail(reason: str) -> None:
    """Print the reason, with the traceback where ``--debug`` asks for it, and exit with 1."""
    if "--debug" in sys.argv:
        _err.print_exception()
    _err.print("error: " + " ".join(reason.split()), style="red", markup=False, soft_wrap=True)
    sys.exit(1)


@app.command()
def fit(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(help="A folder of class folders, a CSV or Parquet table, or 'digits'.")
    ],
    model: Annotated[str, typer.Option(help="A Hugging Face CLIP id, a local folder, or 'tiny'.")] = (
        "openai/clip-vit-base-patch16"
    ),
    method: Annotated[
        str,
        typer.Option(
            help="block-lora, tip-adapter, coop, ...; docs/methods.md has all, and their own defaults."
        ),
    ] = ("block-lora"),
    shots: Annotated[int | None, typer.Option(help="Training images a class.", show_default="all")] = None,
    seed: Annotated[int, typer.Option(help="Where all randomness comes from.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The RUN folder to make.", show_default="runs/DATA-METHOD-SHOTS-SEED")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps in all.", show_default="500 a shot")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-4,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 1e-2,
    r: Annotated[int, typer.Option(help="Total rank of the adapter.")] = 2,
    n_blocks: Annotated[int, typer.Option(help="Blocks that the rank is cut into.")] = 2,
    alpha: Annotated[float, typer.Option(help="The adapter's scale is alpha / sqrt(r).")] = 1.0,
    dropout: Annotated[float, typer.Option(help="Dropout on the adapter's input.")] = 0.25,
    parametrization: Annotated[
        str, typer.Option(help="blocks, or folded: the same with fewer numbers.")
    ] = "blocks",
    towers: Annotated[str, typer.Option(help="both, vision or text.")] = "both",
    targets: Annotated[str, typer.Option(help="Adapted layers: some of q,k,v,out,fc1,fc2.")] = "q,k,v",
    layers: Annotated[str, typer.Option(help="all, top-N or bottom-N.")] = "all",
    prompt: Annotated[
        str | None,
        typer.Option(help="Sentence with {} for the class name.", show_default="the data set's own"),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="crop-flip, crop or none. Take crop where a mirror image is another class.",
            show_default="crop-flip",
        ),
    ] = None,
    peft_config: Annotated[
        str | None, typer.Option(help="The adapter of method peft: PEFT's JSON file.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE: a setting of the method that has no option here. May be repeated.",
            show_default=False,
        ),
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit a classifier to a few labelled images and write a RUN folder with an honest report."""
    from blocklora.console import RunProgress, print_metrics
    from blocklora.runs import fit_run

    settings = _settings(
        context, method, set_, iterations=iterations, batch_size=batch_size, lr=lr, weight_decay=weight_decay,
        r=r, n_blocks=n_blocks, alpha=alpha, dropout=dropout, parametrization=parametrization, towers=towers,
        targets=targets, layers=layers, augment=augment, peft_config=peft_config,
    )  # fmt: skip
    with RunProgress(_err) as progress:
        try:
            run, metrics = fit_run(
                data, out, model=model, method=method, shots=shots, seed=seed, prompt=prompt,
                precision=precision, device=device, resume=resume, progress=progress, **settings,
            )  # fmt: skip
        except KeyboardInterrupt as stop:
            if stop.args:  # training had begun, and its state is kept
                _err.print(f"{stop}; go on with the same command and --resume.", soft_wrap=True)
            raise
    if as_json:
        _print_json(metrics)
    else:
        print_metrics(metrics, run)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A RUN folder.")],
    data: Annotated[
        str | None, typer.Option(help="Other labelled images.", show_default="the run's own")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a finished run again, on its own test images or on others."""
    from blocklora.console import RunProgress, print_metrics
    from blocklora.runs import evaluate_run

    with RunProgress(_err) as progress:
        metrics = evaluate_run(run, data, device=device, progress=progress)
    if as_json:
        _print_json(metrics)
    else:
        print_metrics(metrics, None)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A RUN folder.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    top_k: Annotated[int, typer.Option(help="Classes to show for each image.", min=1)] = 5,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images; one that cannot be read is named, and makes the exit code 1."""
    from blocklora.console import print_predictions
    from blocklora.predictions import predict_files

    result = predict_files(run, images, top_k=top_k, device=device)
    if as_json:
        _print_json(result)
    else:
        print_predictions(result)
    for bad in result["unreadable"]:
        _err.print(f"error: {bad['reason']}", style="red", markup=False, soft_wrap=True)
    if result["unreadable"]:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to put the runs.")] = Path("runs/demo"),
    data: Annotated[str, typer.Option(help="A bundled task.")] = "digits",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show zero-shot against Block-LoRA, offline, with the bundled model: 16 shots, three seeds."""
    from blocklora.console import RunProgress, print_demo
    from blocklora.demo import run_demo

    with RunProgress(_err) as progress:
        result = run_demo(out, data, progress)
    if as_json:
        _print_json(result)
    else:
        print_demo(result)


def _settings(context: typer.Context, method: str, words: list[str] | None, **options: Any) -> dict[str, Any]:
    """Return the settings of a method that were typed: its own defaults stand for the others."""
    from blocklora.methods import METHODS, parse_settings

    sources = {name: context.get_parameter_source(name) for name in options}
    given = {name: options[name] for name, source in sources.items() if source and source.name != "DEFAULT"}
    if words and method in METHODS:  # an unknown method is named when the classifier is made
        given |= parse_settings(method, METHODS[method], words)
    return given


def _print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
