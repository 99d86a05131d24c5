"""The commands that train: ``fit``, and those that train once and test elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from blocklora.cli.known import (
    CHOICES,
    METHODS,
    OPENAI,
    check_choice,
    check_data,
    check_method,
    check_model,
)
from blocklora.cli.options import FitOptions, TransferOptions, takes
from blocklora.cli.output import ERR, is_first, print_json
from blocklora.core.words import count

__all__ = ["base_to_new", "cross_dataset", "domain_generalization", "fit"]

_NOT_PASSED = ("set_", "as_json", "verbose", "debug")
# Of one core, for a step of 32 images and few classes; docs/engine.md measured ViT-B/16 and tiny, the others follow
# from their FLOPs.
_CPU_SECONDS = {"tiny": 0.3, OPENAI["ViT-B/32"]: 3.5, OPENAI["ViT-B/16"]: 13.0, OPENAI["ViT-L/14"]: 62.0}
_PER_SHOT, _MOST_SHOTS = 500, 16


@takes(FitOptions)
def fit(options: FitOptions) -> None:
    """Fit a classifier to a few labelled images and write a RUN folder with an honest report."""
    _check(options)
    if is_first():
        ERR.print(what_will_be_done(options), markup=False, soft_wrap=True)
    from blocklora.cli.console import print_metrics
    from blocklora.core.ranks import joined_ranks
    from blocklora.report import metrics_json
    from blocklora.run.fit import fit_run

    with joined_ranks(options.device) as ranks:
        run, metrics = _with_progress(partial(fit_run, ranks=ranks), options)
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
    """Say in a line what a fit will do, and how long it may take."""
    shots = "all images" if options.shots is None else count(options.shots, "image")
    text = f"Fitting {options.method} to {options.data}: {shots} a class, model {options.model}"
    steps = options.iterations or (options.shots and _PER_SHOT * min(options.shots, _MOST_SHOTS))
    if not steps or "iterations" not in METHODS[options.method]:
        return f"{text}."
    size = options.batch_size or 32
    text += f", {steps:,} {'step' if steps == 1 else 'steps'} of {count(size, 'image')}."
    if options.model not in _CPU_SECONDS:
        return text
    return f"{text} {_how_long(steps * _CPU_SECONDS[options.model] * size / 32)}"


def _how_long(seconds: float) -> str:
    """Say how long training may take at most."""
    if seconds < 90:
        return "About a minute or less."
    if seconds < 5400:
        return f"Up to {seconds / 60:.0f} minutes on a CPU."
    return f"Up to {seconds / 3600:,.0f} hours on one CPU core; a GPU is far faster."


def _protocol(name: str, options: FitOptions) -> None:
    """Train once and test elsewhere."""
    _check(options)
    from blocklora.cli.console import print_protocol
    from blocklora.run import transfer as protocols

    result = _with_progress(getattr(protocols, name), options)
    print_json(result) if options.as_json else print_protocol(result)


def _check(options: FitOptions) -> None:
    """Find wrong words before torch is imported."""
    settings = [pair.partition("=")[0].strip() for pair in options.set_ or () if "=" in pair]
    settings += [name for name in _settings() if getattr(options, name) is not None]
    check_method(options.method, settings)
    for name in CHOICES:
        check_choice(name, getattr(options, name))
    check_model(options.model)
    check_data(options.data, options.root)


def _settings() -> set[str]:
    """Return the options that are settings of a method."""
    return {name for known in METHODS.values() for name in known} & FitOptions.__dataclass_fields__.keys()


def _with_progress(function: Callable[..., Any], options: FitOptions) -> Any:
    """Call a function that fits, showing how far it is and, after Ctrl-C, how to go on."""
    from blocklora.cli.console import RunProgress

    given = _arguments(options)
    with RunProgress(ERR, verbose=options.verbose, silent=not is_first()) as progress:
        try:
            return function(progress=progress, **given)
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
