"""The body of a request becomes images: within bounds, in memory alone, and whatever was sent."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from blocklora.core.words import printable
from blocklora.serve.refusals import Refusal, too_many_images
from blocklora.serve.schemas import JsonImages
from blocklora.serve.service import Received
from blocklora.serve.settings import Limits

__all__ = ["FORM", "JSON", "Body", "from_base64", "media_type", "parse_json", "read_images"]

FORM, JSON, RAW = "multipart/form-data", "application/json", "application/octet-stream"
FIELD = "images"
_LONGEST_NAME = 100

_M = TypeVar("_M", bound=BaseModel)


class Body:
    """What is left to read of a request.

    Args:
        request: The request, of which nothing was read.
        most: How many bytes it may have.
    """

    def __init__(self, request: Request, most: int) -> None:
        self._request, self._most = request, most
        self._more = True

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield it piece by piece.

        Raises:
            Refusal: It is longer than it may be.
            ClientDisconnect: The client has gone.
        """
        if _declared(self._request) > self._most:
            raise self._too_long()
        read = 0
        while self._more:
            piece = await self._next()
            read += len(piece)
            if read > self._most:
                raise self._too_long()
            yield piece

    async def whole(self) -> bytes:
        """Return all of it; raises as ``chunks``."""
        return b"".join([piece async for piece in self.chunks()])

    async def discard(self) -> None:
        """Read on without keeping anything, so that a client that still writes comes to read the refusal."""
        left = 0 if "expect" in self._request.headers else self._most
        while self._more and left > 0:
            left -= len(await self._next()) or 1

    async def _next(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _too_long(self) -> Refusal:
        return Refusal(413, f"one request may have {self._most} bytes at most: send fewer or smaller images")


async def read_images(request: Request, body: Body, limits: Limits) -> list[Received]:
    """Read the images of a form, of JSON, or the one that is the body itself.

    Raises:
        Refusal: The body is too long, of another type, malformed, or has no images or too many.
    """
    kind = media_type(request)
    if kind == FORM:
        return await _form_images(request, body, limits.max_images)
    if kind == JSON:
        sent = parse_json(JsonImages, await body.whole()).images
        if len(sent) > limits.max_images:
            raise too_many_images(limits.max_images)
        return from_base64(sent)
    if kind in (RAW, "") or kind.startswith("image/"):  # Hugging Face's client names no type
        return [Received("image 1", await body.whole())]
    raise Refusal(
        415,
        f"the content type is {printable(kind)!r}: expected {FORM} with files in the field '{FIELD}', {JSON}, or "
        "the bytes of one image as image/jpeg (or another image type)",
    )


def media_type(request: Request) -> str:
    """Return a request's content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def parse_json(model: type[_M], body: bytes) -> _M:
    """Read JSON of a known shape.

    Raises:
        Refusal: It is not JSON, or of another shape; what was sent is not repeated.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise Refusal(
            status, f"{place or 'the body'}: {first['msg']}; /openapi.json says what is expected"
        ) from None


def from_base64(sent: Sequence[str]) -> list[Received]:
    """Decode images from base64.

    Raises:
        Refusal: One of them is not base64.
    """
    found = []
    for number, text in enumerate(sent, 1):
        try:
            found.append(Received(f"image {number}", base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError):
            raise Refusal(422, f"image {number}: this is not base64: send the file's bytes in it") from None
    return found


class _InMemoryParser(MultiPartParser):
    """The parser of forms, which keeps files in memory whatever their size: 0 is without end."""

    spool_max_size = 0


async def _form_images(request: Request, body: Body, most: int) -> list[Received]:
    """Read the files of a form."""
    parser = _InMemoryParser(request.headers, body.chunks(), max_files=most, max_fields=most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many_images(most) from None
        raise Refusal(400, f"the form cannot be read: {printable(error.message)}") from None
    try:
        return await _files_of(form)
    finally:
        await form.close()


async def _files_of(form: FormData) -> list[Received]:
    """Return a form's files."""
    found: list[Received] = []
    for field, value in form.multi_items():
        if field != FIELD or not isinstance(value, UploadFile):
            raise Refusal(
                422, f"the form has {printable(field)!r}: expected nothing but files in the field '{FIELD}'"
            )
        name = printable(value.filename or "")[:_LONGEST_NAME] or f"image {len(found) + 1}"
        found.append(Received(name, await value.read()))
    if not found:
        raise Refusal(422, f"the form has no file: expected images in the field '{FIELD}'")
    return found


def _declared(request: Request) -> int:
    """Return the length that a request says it has, 0 where it says none."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
