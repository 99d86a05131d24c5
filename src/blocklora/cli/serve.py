"""The command ``blocklora serve``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from blocklora.cli.known import check_run
from blocklora.cli.options import Debug, Device
from blocklora.cli.output import ERR
from blocklora.core.errors import ConfigError
from blocklora.core.files import user_path
from blocklora.core.words import count

__all__ = ["serve"]

_LISTEN, _LIMITS = "Listening", "Limits (of each worker)"
_NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_TOKEN = "BLOCKLORA_TOKEN"


def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="RUN folders; with --backend onnx folders of 'blocklora export'.",
            metavar="RUN...",
            parser=user_path,
        ),
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is every one.", rich_help_panel=_LISTEN)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="0 takes any free one.", min=0, max=65535, rich_help_panel=_LISTEN)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file with the token that requests must bring; the environment variable {_TOKEN} does the same.",
            show_default=False,
            metavar="FILE",
            parser=user_path,
            rich_help_panel=_LISTEN,
        ),
    ] = None,
    backend: Annotated[
        Literal["torch", "onnx"], typer.Option(help="What computes.", rich_help_panel="Machine")
    ] = "torch",
    workers: Annotated[
        int, typer.Option(help="Processes side by side.", min=1, rich_help_panel="Machine")
    ] = 1,
    device: Device = "auto",
    max_batch: Annotated[
        int, typer.Option(help="Images that are computed at a time.", min=1, rich_help_panel=_LIMITS)
    ] = 32,
    max_wait: Annotated[
        float,
        typer.Option(
            help="Milliseconds that an image waits for others on their way.", min=0, rich_help_panel=_LIMITS
        ),
    ] = 5,
    queue: Annotated[
        int,
        typer.Option(
            help="Images a model at a time; more are told to come back (429).", min=1, rich_help_panel=_LIMITS
        ),
    ] = 64,
    max_images: Annotated[
        int, typer.Option(help="Images of one request.", min=1, rich_help_panel=_LIMITS)
    ] = 32,
    max_body: Annotated[
        float, typer.Option(help="Megabytes of one request.", min=0, rich_help_panel=_LIMITS)
    ] = 20,
    max_pixels: Annotated[
        float, typer.Option(help="Million pixels of one image.", min=0, rich_help_panel=_LIMITS)
    ] = 50,
    timeout: Annotated[
        float, typer.Option(help="Seconds that one request may take.", min=0, rich_help_panel=_LIMITS)
    ] = 30,
    debug: Debug = False,
) -> None:
    """Answer over HTTP, with a page and an API; each request is one line of JSON on stdout."""
    for run in runs:
        check_run(run)
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise ConfigError(
            f"the service needs {', '.join(missing)}, which is not installed: pip install 'blocklora[serve]'"
        )
    from blocklora.serve.server import serve as run_service
    from blocklora.serve.settings import Limits, Settings

    limits = Limits(
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        queue=queue,
        max_images=max_images,
        max_body=round(max_body * 1e6),
        max_pixels=round(max_pixels * 1e6),
        timeout=timeout,
    )
    settings = Settings(tuple(runs), backend, device, _token(token_file), workers, limits)
    if settings.token is None and host not in ("127.0.0.1", "::1", "localhost"):
        ERR.print(
            f"warning: whoever reaches {host} may ask this service: set --token-file to ask for a token."
        )

    def say(address: str) -> None:
        ERR.print(f"{count(len(runs), 'model')} at {address} (Ctrl-C stops it)", soft_wrap=True)

    run_service(settings, host, port, say)


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
