"""The commands that train: ``fit``, and those that train once and test elsewhere."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from blocklora.cli.known import (
    CHOICES,
    METHODS,
    check_choice,
    check_data,
    check_method,
    check_model,
)
from blocklora.cli.options import FitOptions, RunOptions, TransferOptions
from blocklora.cli.output import ERR, is_first, print_json
from blocklora.cli.takes import takes
from blocklora.core.deadline import in_words, parse_seconds
from blocklora.core.words import count

__all__ = ["base_to_new", "cross_dataset", "domain_generalization", "fit"]

_NOT_PASSED = ("set_", "as_json", "verbose", "debug")
_PER_SHOT, _MOST_SHOTS = 500, 16
_WORTH_SAYING, _TOO_LONG = 60, 1800  # seconds; above the second a time limit is recommended
_LIMIT = "10m"


@takes(RunOptions)
def fit(options: RunOptions) -> None:
    """Fit a classifier to a few labelled images and write a RUN folder with an honest report."""
    began = time.monotonic()
    _check(options)
    if is_first():
        ERR.print(what_will_be_done(options), markup=False, soft_wrap=True)
    from blocklora.cli.console import print_metrics
    from blocklora.core.ranks import joined_ranks
    from blocklora.report import metrics_json
    from blocklora.run.fit import fit_run

    with joined_ranks(options.device) as ranks:
        run, metrics = _with_progress(partial(fit_run, ranks=ranks), options, began)
    if not ranks.first:
        return
    if options.as_json:
        print_json(metrics_json(metrics) | {"run": str(run)})
    else:
        print_metrics(metrics, run)


@takes(FitOptions)
def base_to_new(options: FitOptions) -> None:
    """Train on the first half of the classes; test on it and, by their names, on the other half."""
    _protocol("base_to_new", options)


@takes(TransferOptions)
def cross_dataset(options: TransferOptions) -> None:
    """Train on one data set; test on others by their class names (default: the others of the eleven)."""
    _protocol("cross_dataset", options)


@takes(TransferOptions)
def domain_generalization(options: TransferOptions) -> None:
    """Train on ImageNet; test on its shifted variants (default: V2, Sketch, A and R)."""
    _protocol("domain_generalization", options)


def what_will_be_done(options: FitOptions) -> str:
    """Say in a line what a fit will do."""
    shots = "all images" if options.shots is None else count(options.shots, "image")
    text = f"Fitting {options.method} to {options.data}: {shots} a class, model {options.model}"
    steps = options.iterations or (options.shots and _PER_SHOT * min(options.shots, _MOST_SHOTS))
    if steps and "iterations" in METHODS[options.method]:
        size = options.batch_size or 32
        text += f", {steps:,} {'step' if steps == 1 else 'steps'} of {count(size, 'image')}"
    if options.time_limit:
        text += f", or what can be done in {in_words(parse_seconds(options.time_limit))}"
    return f"{text}."


def how_long(seconds: float, arguments: Sequence[str], out: Path | None) -> str:
    """Say how long a fit is expected to take, and, where that is too long, which command ends sooner.

    Args:
        seconds: The time that is expected.
        arguments: Of the command line, without the program.
        out: The folder that was named.

    Returns:
        The line; empty where nothing need be said.
    """
    if seconds < _WORTH_SAYING:
        return ""
    text = f"This takes about {in_words(seconds)} on this device."
    if seconds < _TOO_LONG:
        return text
    more = ["--time-limit", _LIMIT, *(["--out", f"{out}-{_LIMIT}"] if out else [])]
    command = shlex.join(["blocklora", *arguments, *more])
    return f"{text} To end in {in_words(parse_seconds(_LIMIT))}: {command}"


def _protocol(name: str, options: FitOptions) -> None:
    """Train once and test elsewhere."""
    began = time.monotonic()
    _check(options)
    from blocklora.cli.console import print_protocol
    from blocklora.run import transfer as protocols

    result = _with_progress(getattr(protocols, name), options, began)
    print_json(result) if options.as_json else print_protocol(result)


def _check(options: FitOptions) -> None:
    """Find wrong words before torch is imported."""
    settings = [pair.partition("=")[0].strip() for pair in options.set_ or () if "=" in pair]
    settings += [name for name in _settings() if getattr(options, name) is not None]
    check_method(options.method, settings)
    if options.time_limit is not None:
        parse_seconds(options.time_limit)
    for name in CHOICES.keys() & vars(options):
        check_choice(name, getattr(options, name))
    check_model(options.model)
    check_data(options.data, options.root)


def _settings() -> set[str]:
    """Return the options that are settings of a method."""
    return {name for known in METHODS.values() for name in known} & FitOptions.__dataclass_fields__.keys()


def _with_progress(function: Callable[..., Any], options: FitOptions, began: float) -> Any:
    """Call a function that fits, showing how far it is and, after Ctrl-C, how to go on."""
    from blocklora.cli.progress import RunProgress

    said: list[str] = []

    def expected(seconds: float) -> None:
        text = how_long(seconds, [word for word in sys.argv[1:] if word != "--resume"], options.out)
        if text and not said:  # a method may have several parts; the first is the longest
            said.append(text)
            ERR.print(text, markup=False, soft_wrap=True)

    given = _arguments(options)
    with RunProgress(ERR, verbose=options.verbose, silent=not is_first()) as progress:
        try:
            return function(progress=progress, on_expected=expected, began=began, **given)
        except KeyboardInterrupt as stop:
            if stop.args and is_first():  # training had begun, and its state is kept
                ERR.print(f"{stop}; go on with the same command and --resume.", soft_wrap=True)
            raise


def _arguments(options: FitOptions) -> Mapping[str, Any]:
    """Return options as arguments of ``fit_run``; of the method's settings only those that were typed."""
    from blocklora.methods import METHODS as FITS
    from blocklora.methods import parse_settings

    given = {name: value for name, value in asdict(options).items() if name not in _NOT_PASSED}
    given = {name: value for name, value in given.items() if name not in _settings() or value is not None}
    if "to" in given:
        given["to"] = tuple(part.strip() for part in given["to"].split(",") if part.strip())
    if options.set_:
        given |= parse_settings(options.method, FITS[options.method].settings, options.set_)
    return given
