"""The application: routes, errors as JSON, the page, and a description of it all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from blocklora.serve import open_inference, page, routes
from blocklora.serve.access import Access, Log, print_line
from blocklora.serve.refusals import Refusal
from blocklora.serve.schemas import Document, body_schemas
from blocklora.serve.service import Service

__all__ = ["create_app"]

_PUBLIC = frozenset({*routes.PROBES, *page.PATHS, "/openapi.json"})


def create_app(service: Service, *, token: str | None = None, log: Log = print_line) -> FastAPI:
    """Make the ASGI application of a service.

    Args:
        service: What answers; it runs while the application does.
        token: What requests must bring, as ``Authorization: Bearer TOKEN``; None: nothing.
        log: Takes the facts of each request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="blocklora",
        version=version("blocklora"),
        summary="Image classifiers, fitted from a handful of images.",
        lifespan=lifespan,
        docs_url=None,  # they would load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for router in (routes.router, open_inference.router, page.router):
        app.include_router(router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RequestValidationError, _wrong_value)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(Access, metrics=service.metrics, token=token, public=_PUBLIC, log=log)
    app.openapi = partial(_describe, app, app.openapi, token is not None)  # type: ignore[method-assign]
    return app


def _describe(app: FastAPI, described: Any, with_token: bool) -> Document:
    """Return the OpenAPI document, with the bodies that are parsed by hand and the token."""
    if app.openapi_schema is None:
        document = described()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {}).update(body_schemas())
        if with_token:
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, methods in document["paths"].items():
                for method in methods.values():
                    method["security"] = [] if path in _PUBLIC else [{"token": []}]
    assert app.openapi_schema is not None
    return app.openapi_schema


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"error": error.message}, error.status, error.headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _wrong_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it but the log


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the service has failed; its error output says how"}, 500)
