"""The service's own endpoints, and the one that Hugging Face's clients speak to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from blocklora.serve.backend import Why
from blocklora.serve.bodies import (
    FIELD,
    FORM,
    JSON,
    RAW,
    Body,
    from_base64,
    media_type,
    parse_json,
    read_images,
)
from blocklora.serve.intake import answer, service_of, top_of
from blocklora.serve.metrics import METRICS_TYPE
from blocklora.serve.refusals import Refusal
from blocklora.serve.schemas import (
    ClassEvidence,
    Document,
    ErrorAnswer,
    HubAnswer,
    HubRequest,
    ImageAnswer,
    JsonImages,
    LimitsAnswer,
    ModelAnswer,
    ModelsAnswer,
    NearestImage,
    PredictAnswer,
    ReasonsAnswer,
    State,
    json_body,
)
from blocklora.serve.service import Received
from blocklora.serve.settings import Limits

__all__ = ["PROBES", "REFUSALS", "router"]

PROBES = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
"""Paths that ask for no token."""

_WHY = {
    400: "The body cannot be read.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or not a type of body that is read.",
    422: "A value is wrong, or an image is damaged.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The service has failed.",
    503: "No answer in time, or not ready.",
}
REFUSALS: dict[int | str, Document] = {
    status: {"description": why, "model": ErrorAnswer} for status, why in _WHY.items()
}
"""What else an endpoint that takes images may answer."""

_FILE = {"type": "string", "format": "binary"}
_ONE = {RAW: {"schema": _FILE}, "image/*": {"schema": _FILE}}
_PREDICT_BODY = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "additionalProperties": False,
                "properties": {FIELD: {"type": "array", "minItems": 1, "items": _FILE}},
            }
        },
        JSON: json_body(JsonImages),
        **_ONE,
    },
}
_HUB_BODY = {
    "required": True,
    "content": {
        JSON: json_body(HubRequest),
        **_ONE,
    },
}

router = APIRouter()


@router.post(
    "/v1/predict",
    response_model_exclude_none=True,
    responses=REFUSALS,
    openapi_extra={"requestBody": _PREDICT_BODY},
)
async def predict(
    request: Request,
    model: Annotated[str | None, Query(description="A model's name; by default the first one.")] = None,
    top_k: Annotated[int, Query(ge=1, description="Classes to name for each image.")] = 5,
    explain: Annotated[
        bool, Query(description="Say why, where the model does: evidence, nearest training images, heat map.")
    ] = False,
) -> PredictAnswer:
    """Classify one image or several."""
    answered = await answer(request, model, explain=explain)
    labels = answered.model.backend.facts.labels
    predictions = []
    for name, one in zip(answered.names, answered.answers, strict=True):
        top = top_of(labels, one, top_k)
        said = None if one.set is None else list(one.set)
        predictions.append(
            ImageAnswer(
                image=name,
                label=top[0].label,
                probability=top[0].probability,
                top=top,
                set=said,
                unknown=one.unknown,
                reasons=None if one.why is None else _reasons(one.why),
            )
        )
    return PredictAnswer(model=answered.model.name, predictions=predictions)


def _reasons(why: Why) -> ReasonsAnswer:
    """Return reasons as JSON has them."""
    return ReasonsAnswer(
        evidence=[ClassEvidence(label=label, above_mean=value) for label, value in why.evidence],
        nearest=[NearestImage(**asdict(one)) for one in why.nearest],
        heat_map=None if why.heat_map is None else [list(row) for row in why.heat_map],
    )


@router.get("/v1/models", responses={401: REFUSALS[401]})
async def models(request: Request) -> ModelsAnswer:
    """List the models, their classes, and what is refused."""
    service = service_of(request)
    limits = service.limits
    return ModelsAnswer(
        models=[
            ModelAnswer(
                name=model.name,
                method=model.backend.facts.method,
                platform=model.backend.facts.platform,
                notes=list(model.backend.facts.notes),
                explains=model.backend.facts.explains,
                classes=list(model.backend.facts.labels),
            )
            for model in service.models.values()
        ],
        limits=LimitsAnswer(
            max_images=limits.max_images, max_body=limits.max_body, max_pixels=limits.max_pixels
        ),
    )


@router.post("/models/{name}", responses=REFUSALS, openapi_extra={"requestBody": _HUB_BODY})
async def image_classification(request: Request, name: str) -> list[HubAnswer]:
    """Classify one image, as the Hugging Face task image-classification: its bytes, or JSON."""
    top_k = 5

    async def read(request: Request, body: Body, limits: Limits) -> list[Received]:
        nonlocal top_k
        if media_type(request) != JSON:
            return await read_images(request, body, limits)
        sent = parse_json(HubRequest, await body.whole())
        top_k = sent.parameters.top_k
        return from_base64([sent.inputs])

    answered = await answer(request, name, read)
    top = top_of(answered.model.backend.facts.labels, answered.answers[0], top_k)
    return [HubAnswer(label=one.label, score=one.probability) for one in top]


@router.get("/healthz", response_model_exclude_none=True)
@router.get("/v2/health/live", response_model_exclude_none=True)
async def live() -> State:
    """Answer while the process lives."""
    return State(live=True)


@router.get("/readyz", response_model_exclude_none=True, responses={503: REFUSALS[503]})
@router.get("/v2/health/ready", response_model_exclude_none=True, responses={503: REFUSALS[503]})
async def ready(request: Request) -> State:
    """Answer when all models are there."""
    if not service_of(request).ready:
        raise Refusal(503, "a model does not answer: start the service again")
    return State(ready=True)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: REFUSALS[401]},
)
async def metrics(request: Request) -> Response:
    """Return what Prometheus reads."""
    return Response(service_of(request).metrics.page(), media_type=METRICS_TYPE)
