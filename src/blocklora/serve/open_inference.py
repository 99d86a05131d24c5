"""The Open Inference Protocol (KServe's version 2 over HTTP), as Triton, MLServer and KServe speak it.

One input, ``image``: BYTES of any length M, each the bytes of an image file. In JSON they are base64; with the binary
extension they follow the JSON, each after its length in four bytes, little-endian. Two outputs: ``probabilities``
(M, N) in the order of ``GET /v1/models``, and ``label`` (M,).
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from fastapi import APIRouter, Request

from blocklora.serve.bodies import JSON, Body, from_base64, parse_json
from blocklora.serve.intake import Classified, answer, service_of
from blocklora.serve.refusals import Refusal, too_many_images
from blocklora.serve.routes import REFUSALS
from blocklora.serve.schemas import (
    Document,
    InferAnswer,
    InferInput,
    InferOutput,
    InferRequest,
    ModelMetadata,
    ServerMetadata,
    State,
    TensorMetadata,
    json_body,
)
from blocklora.serve.service import Received
from blocklora.serve.settings import Limits

__all__ = ["router"]

IMAGE, PROBABILITIES, LABEL = "image", "probabilities", "label"
_LENGTH = "inference-header-content-length"
_SIZE = "binary_data_size"
_UNKNOWN: dict[int | str, Document] = {status: REFUSALS[status] for status in (401, 404, 422)}

router = APIRouter(prefix="/v2")


@router.get("", responses={401: REFUSALS[401]})
async def server() -> ServerMetadata:
    """Say what this service is."""
    return ServerMetadata(name="blocklora", version=version("blocklora"), extensions=["binary_tensor_data"])


@router.get("/models/{name}", responses=_UNKNOWN)
async def model_metadata(request: Request, name: str) -> ModelMetadata:
    """Describe a model's input and outputs."""
    model = service_of(request).find(name)
    facts = model.backend.facts
    return ModelMetadata(
        name=name,
        platform=facts.platform,
        inputs=[TensorMetadata(name=IMAGE, datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(name=PROBABILITIES, datatype="FP64", shape=[-1, len(facts.labels)]),
            TensorMetadata(name=LABEL, datatype="BYTES", shape=[-1]),
        ],
    )


@router.get(
    "/models/{name}/ready", response_model_exclude_none=True, responses=_UNKNOWN | {503: REFUSALS[503]}
)
async def model_ready(request: Request, name: str) -> State:
    """Say whether a model answers."""
    model = service_of(request).find(name)
    if not model.alive:
        raise Refusal(503, "this model does not answer: start the service again")
    return State(name=name, ready=True)


@router.post(
    "/models/{name}/infer",
    response_model_exclude_none=True,
    responses=REFUSALS,
    openapi_extra={"requestBody": {"required": True, "content": {JSON: json_body(InferRequest)}}},
)
async def infer(request: Request, name: str) -> InferAnswer:
    """Classify images."""
    sent: list[InferRequest] = []

    async def read(request: Request, body: Body, limits: Limits) -> list[Received]:
        text, rest = _split(request, await body.whole())
        sent.append(parse_json(InferRequest, text))
        return _images(sent[0], rest, limits.max_images)

    answered = await answer(request, name, read)
    wanted = {output.name for output in sent[0].outputs} or {PROBABILITIES, LABEL}
    outputs = [output for output in _outputs(answered) if output.name in wanted]
    return InferAnswer(model_name=name, id=sent[0].id, outputs=outputs)


def _split(request: Request, body: bytes) -> tuple[bytes, bytes]:
    """Cut a body into its JSON and the binary data after it."""
    text = request.headers.get(_LENGTH)
    if text is None:
        return body, b""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= len(body)):
        raise Refusal(400, f"{_LENGTH} is not the length of the JSON at the beginning of the body")
    return body[: int(text)], body[int(text) :]


def _images(sent: InferRequest, rest: bytes, most: int) -> list[Received]:
    """Return the images of the one input."""
    given = sent.inputs[0]
    if given.datatype != "BYTES":
        raise Refusal(422, f"input '{IMAGE}' has another datatype than BYTES: send the bytes of image files")
    unknown = {output.name for output in sent.outputs} - {PROBABILITIES, LABEL}
    if given.name != IMAGE or unknown:
        raise Refusal(
            422, f"expected the input '{IMAGE}', and outputs '{PROBABILITIES}' and '{LABEL}' or none"
        )
    if given.data is None:
        images = _from_binary(given, rest)
    else:
        images = from_base64(given.data)
    if len(images) > most:
        raise too_many_images(most)
    if given.shape not in ([len(images)], [len(images), 1]) or not images:
        raise Refusal(422, f"input '{IMAGE}' has {len(images)} images, which is not what its shape says")
    return images


def _from_binary(given: InferInput, rest: bytes) -> list[Received]:
    """Cut the binary data into images: each is four bytes of its length, and itself."""
    if given.parameters.get(_SIZE) != len(rest) or not rest:
        raise Refusal(422, f"input '{IMAGE}' has neither data, nor a {_SIZE} that fits what follows the JSON")
    found: list[Received] = []
    place = 0
    while place < len(rest):
        end = place + 4 + int.from_bytes(rest[place : place + 4], "little")
        if end > len(rest) or place + 4 > len(rest):
            raise Refusal(422, f"the lengths in the binary data of input '{IMAGE}' lead beyond its end")
        found.append(Received(f"image {len(found) + 1}", rest[place + 4 : end]))
        place = end
    return found


def _outputs(answered: Classified) -> list[InferOutput]:
    """Return both output tensors."""
    rows, labels = (
        np.stack([one.probabilities for one in answered.answers]),
        answered.model.backend.facts.labels,
    )
    best = [labels[place] for place in rows.argmax(axis=1)]
    return [
        InferOutput(name=PROBABILITIES, datatype="FP64", shape=list(rows.shape), data=rows.ravel().tolist()),
        InferOutput(name=LABEL, datatype="BYTES", shape=[len(best)], data=best),
    ]
