"""What happens to every request: the token, the log, the counters, and the headers that keep browsers strict."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import TypeAlias
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blocklora.serve.metrics import Metrics

__all__ = ["Access", "Log", "print_line"]

Log: TypeAlias = Callable[[dict[str, str | int | float]], None]

_GONE, _FAILED = 499, 500  # the client has gone before it had an answer (as nginx says); a fault of ours
_LONGEST_PATH = 200
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def print_line(facts: dict[str, str | int | float]) -> None:
    """Write one line of JSON to stdout; a reader who has gone stops no service."""
    with suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()


class Access:
    """The outermost layer of the application.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        token: What they must bring; None: nothing.
        public: Paths that need no token.
        log: Takes the facts of each request: never what was sent, and no token.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, token: str | None, public: frozenset[str], log: Log
    ) -> None:
        self._app, self._metrics, self._log = app, metrics, log
        self._token = None if token is None else _digest(f"Bearer {token}".encode())
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, name = monotonic(), _GONE, uuid4().hex
        scope.setdefault("state", {})["access"] = {}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                for header, value in _HEADERS.items():
                    headers.setdefault(header, value)
            await send(message)

        try:
            await (self._app if self._may(scope) else _refuse)(scope, receive, answer)
        except Exception:
            status = _FAILED
            raise
        finally:
            self._note(scope, status, monotonic() - began, name)

    def _may(self, scope: Scope) -> bool:
        """Whether a request brings the token, if there is one; compared in constant time."""
        if self._token is None or scope["path"] in self._public:
            return True
        given = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(_digest(given.encode("latin-1", "replace")), self._token)

    def _note(self, scope: Scope, status: int, seconds: float, name: str) -> None:
        """Count a request, and write it down."""
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.request(route, status, seconds)
        client = scope.get("client") or ("",)
        self._log(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "id": name,
                "client": client[0],
                "method": scope["method"],
                "path": scope["path"][:_LONGEST_PATH],
                "status": status,
                "ms": round(1000 * seconds, 1),
                **scope["state"]["access"],
            }
        )


def _digest(text: bytes) -> bytes:
    """Return a hash, so that not even the length of a token takes part in a comparison."""
    return hashlib.sha256(text).digest()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Ask for the token."""
    response = JSONResponse(
        {"error": "the token is missing or wrong: send the header 'Authorization: Bearer TOKEN'"},
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )
    await response(scope, receive, send)
