"""The command ``blocklora serve``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device, takes
from blocklora.cli.output import ERR
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path
from blocklora.core.words import count

__all__ = ["serve"]

_LISTEN, _MACHINE, _LIMITS = "Listening", "Machine", "Limits (of each worker)"
_NEEDS = ["fastapi", "uvicorn", "python_multipart", "prometheus_client"]
_TOKEN = "BLOCKLORA_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _limit(help_: str) -> Any:
    return typer.Option(help=help_, min=0, rich_help_panel=_LIMITS)


@dataclass(frozen=True)
class ServeOptions:
    """The options of ``serve``."""

    runs: Annotated[
        list[Path],
        typer.Argument(
            help="RUN folders; with --backend onnx folders of 'blocklora export'.",
            metavar="RUN",
            parser=user_path,
        ),
    ]
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is every one.", rich_help_panel=_LISTEN)
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(help="0 takes any free one.", min=0, max=65535, rich_help_panel=_LISTEN)
    ] = 8000
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file with the token that requests must bring; {_TOKEN} in the environment does the same.",
            show_default=False,
            metavar="FILE",
            parser=user_path,
            rich_help_panel=_LISTEN,
        ),
    ] = None
    backend: Annotated[
        Literal["torch", "onnx"], typer.Option(help="What computes.", rich_help_panel=_MACHINE)
    ] = "torch"
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Add to each answer a set of classes that holds the true one so often, such as 0.9.",
            metavar="SHARE",
            show_default="no sets",
        ),
    ] = None
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Say where an image looks like none of the classes.")
    ] = False
    false_alarms: Annotated[
        float,
        typer.Option(help="Of images of the classes, how many --unknown may call unknown.", metavar="SHARE"),
    ] = 0.05
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Say why, if a request asks; that shows the training images that are nearest."
        ),
    ] = False
    workers: Annotated[int, typer.Option(help="Processes side by side.", min=1, rich_help_panel=_MACHINE)] = 1
    device: Device = "auto"
    max_batch: Annotated[int, _limit("Images that are computed at a time.")] = 32
    max_wait: Annotated[float, _limit("Milliseconds that an image waits for others on their way.")] = 5
    queue: Annotated[int, _limit("Images a model at a time; more are told to come back (429).")] = 64
    max_images: Annotated[int, _limit("Images of one request.")] = 32
    max_body: Annotated[float, _limit("Megabytes of one request.")] = 20
    max_pixels: Annotated[float, _limit("Million pixels of one image.")] = 50
    timeout: Annotated[float, _limit("Seconds that one request may take.")] = 30
    debug: Debug = False


@takes(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Answer over HTTP, with a page and an API; each request is one line of JSON on stdout."""
    for run in options.runs:
        check_run(run)
    needed = [*_NEEDS, "onnxruntime"] if options.backend == "onnx" else _NEEDS
    if missing := [name for name in needed if find_spec(name) is None]:
        extras = "export,serve" if options.backend == "onnx" else "serve"
        raise ConfigError(
            f"the service needs {', '.join(missing)}, which is not installed: pip install 'blocklora[{extras}]'"
        )
    from blocklora.serve.server import serve as run_service
    from blocklora.serve.settings import Limits, Settings

    limits = Limits(
        max_batch=options.max_batch,
        max_wait=options.max_wait / 1000,
        queue=options.queue,
        max_images=options.max_images,
        max_body=round(options.max_body * 1e6),
        max_pixels=round(options.max_pixels * 1e6),
        timeout=options.timeout,
    )
    token = _token(options.token_file)
    settings = Settings(
        runs=tuple(options.runs),
        backend=options.backend,
        device=options.device,
        coverage=options.coverage,
        false_alarms=options.false_alarms if options.unknown else None,
        explain=options.explain,
        token=token,
        workers=options.workers,
        limits=limits,
    )
    if token is None and options.host not in _LOOPBACK:
        ERR.print(
            f"warning: whoever reaches {options.host} may ask this service: --token-file asks for a token.",
            soft_wrap=True,
        )

    def say(address: str) -> None:
        ERR.print(f"{count(len(options.runs), 'model')} at {address} (Ctrl-C stops it)", soft_wrap=True)

    run_service(settings, options.host, options.port, say)


def _token(file: Path | None) -> str | None:
    """Return the token from a file or the environment; None where there is neither."""
    if file is None:
        found, where = os.environ.get(_TOKEN), _TOKEN
        if found is None:
            return None
    else:
        try:
            found, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: the token cannot be read ({error}): check the file") from error
    token = found.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: expected a token of ASCII letters, digits and signs, without spaces")
    return token
