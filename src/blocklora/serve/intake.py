"""From a request to its answer: room first, then the body, then the images, all within the time that it may take.

Axes: M = images of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from blocklora.serve.backend import Answer
from blocklora.serve.bodies import Body, read_images
from blocklora.serve.refusals import Refusal
from blocklora.serve.schemas import ClassProbability
from blocklora.serve.service import Model, Received, Service
from blocklora.serve.settings import Limits

__all__ = ["Classified", "answer", "service_of", "top_of"]

Reader = Callable[[Request, Body, Limits], Awaitable[list[Received]]]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Classified:
    """What came of a request.

    Attributes:
        model: Which model answered.
        names: Of the M images.
        answers: M of them.
    """

    model: Model
    names: list[str]
    answers: list[Answer]


def service_of(request: Request) -> Service:
    """Return the service that a request was sent to."""
    found: Service = request.app.state.service
    return found


async def answer(
    request: Request, name: str | None, read: Reader = read_images, *, explain: bool = False
) -> Classified:
    """Classify the images of a request.

    Args:
        request: The request, of which nothing was read.
        name: The model's name; None is the first one.
        read: What makes images of the body.
        explain: Whether to say why.

    Raises:
        Refusal: It cannot be answered, or not now, or not in time.
        ClientDisconnect: The client has gone; what was not begun for it is left undone.
    """
    service = service_of(request)
    limits, deadline = service.limits, asyncio.get_running_loop().time() + service.limits.timeout
    body = Body(request, limits.max_body)
    try:
        model = service.find(name)
        if explain and not model.backend.facts.explains:
            raise Refusal(422, f"{model.name} does not say why here: that is for services with --explain")
        with service.room(model):
            slow = Refusal(408, f"the request was not there after {limits.timeout:g} s: send it faster")
            images = await _until(deadline, read(request, body, limits), slow)
            request.state.access.update(model=model.name, images=len(images))
            with service.room(model, len(images) - 1):
                late = Refusal(503, f"no answer within {limits.timeout:g} s: try again", {"Retry-After": "1"})
                work = _while_there(request, service.classify(model, images, explain))
                answers = await _until(deadline, work, late)
    except Refusal:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await body.discard()
        raise
    return Classified(model, [image.name for image in images], answers)


def top_of(labels: tuple[str, ...], answer: Answer, k: int) -> list[ClassProbability]:
    """Return the k most probable classes, or all."""
    row = answer.probabilities
    best = np.argsort(-row, kind="stable")[:k].tolist()
    return [ClassProbability(label=labels[place], probability=float(row[place])) for place in best]


async def _until(deadline: float, work: Awaitable[_T], otherwise: Refusal) -> _T:
    """Return what comes of a piece of work, or raise where it takes too long."""
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise otherwise from None


async def _while_there(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what comes of a piece of work, which is given up when the client goes."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
