"""The commands that train once and test elsewhere; they take the options of ``fit``, from its own signature."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["add_protocols", "print_json", "run_with_progress"]

_NOT_PASSED = ("context", "set_", "as_json", "debug")
_To = Annotated[str, typer.Option(help="Names of the data sets to test on, with commas between them.")]
_HELP = {
    "base-to-new": "Train on the first half of the classes; test on it and, by their names, on the other half.",
    "cross-dataset": "Train on one data set; test on others by their class names (default: the others of the eleven).",
    "domain-generalization": "Train on ImageNet; test on its shifted variants (default: V2, Sketch, A and R).",
}


def add_protocols(app: typer.Typer, fit: Callable[..., None], err: Console) -> None:
    """Add the commands ``base-to-new``, ``cross-dataset`` and ``domain-generalization``.

    Args:
        app: Where to.
        fit: The command whose options they take.
        err: Where progress is shown.
    """
    for name, text in _HELP.items():
        app.command(name, help=text)(_command(name, fit, err))


def _command(name: str, fit: Callable[..., None], err: Console) -> Callable[..., None]:
    """Make one command with ``fit``'s parameters; those that test on other data sets have ``--to`` as well."""

    def command(**options: Any) -> None:
        from blocklora.cli.console import print_protocol
        from blocklora.run import transfer as protocols

        if "to" in options:
            options["to"] = tuple(part.strip() for part in options["to"].split(",") if part.strip())
        as_json = options["as_json"]
        result = run_with_progress(getattr(protocols, name.replace("-", "_")), options, err)
        print_json(result) if as_json else print_protocol(result)

    parameters = list(inspect.signature(fit, eval_str=True).parameters.values())
    if name != "base-to-new":
        keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
        place = next(place for place, parameter in enumerate(parameters) if parameter.name == "data")
        parameters[place] = parameters[place].replace(default="imagenet")
        parameters.insert(place + 1, inspect.Parameter("to", keyword, default="", annotation=_To))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


def run_with_progress(function: Callable[..., Any], options: Mapping[str, Any], err: Console) -> Any:
    """Call a function that fits with the options of a command, showing how far it is and how to go on after Ctrl-C."""
    from blocklora.cli.console import RunProgress

    settings = _arguments(options)
    with RunProgress(err) as progress:
        try:
            return function(settings.pop("data"), settings.pop("out"), progress=progress, **settings)
        except KeyboardInterrupt as stop:
            if stop.args:  # training had begun, and its state is kept
                err.print(f"{stop}; go on with the same command and --resume.", soft_wrap=True)
            raise


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command as arguments of ``fit_run``.

    Of the method's settings only those that were typed are among them: its own defaults stand for the others.
    """
    from blocklora.methods import METHODS, Options, parse_settings

    of_methods = {field.name for field in fields(Options)} | {"peft_config"}
    sources = {name: options["context"].get_parameter_source(name) for name in of_methods & options.keys()}
    left_out = {name for name, source in sources.items() if source is None or source.name == "DEFAULT"}
    given = {key: value for key, value in options.items() if key not in left_out.union(_NOT_PASSED)}
    method = options["method"]
    if options["set_"] and method in METHODS:  # an unknown method is named when the classifier is made
        given |= parse_settings(method, METHODS[method], options["set_"])
    return given


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
