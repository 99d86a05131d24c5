"""What requests bring and answers hold, as JSON; the OpenAPI document is made of it."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

__all__ = [
    "ClassEvidence",
    "ClassProbability",
    "Document",
    "ErrorAnswer",
    "HubAnswer",
    "HubParameters",
    "HubRequest",
    "ImageAnswer",
    "InferAnswer",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "JsonImages",
    "LimitsAnswer",
    "ModelAnswer",
    "ModelMetadata",
    "ModelsAnswer",
    "NearestImage",
    "PredictAnswer",
    "ReasonsAnswer",
    "RequestedOutput",
    "ServerMetadata",
    "State",
    "TensorMetadata",
    "body_schemas",
    "json_body",
]

Document: TypeAlias = dict[str, Any]
"""A part of an OpenAPI document, or all of it."""

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4v5QBAARLAaU/Dnq2AAAAAElFTkSuQmCC"
"""A PNG of one pixel, in base64: an example that can be sent."""


class ClassProbability(BaseModel):
    """A class, and how probable it is."""

    label: str
    probability: float


class ClassEvidence(BaseModel):
    """A class, and how much speaks for it."""

    label: str
    above_mean: float = Field(
        description="Its logit, divided by the temperature, above the mean of all classes."
    )


class NearestImage(BaseModel):
    """A training image that is like the image."""

    image: str = Field(description="Its name.")
    label: str
    cosine: float
    thumbnail: str | None = Field(
        default=None, description="A small copy, as a data: address, where the image is still there."
    )


class ReasonsAnswer(BaseModel):
    """Why an image got its answer."""

    evidence: list[ClassEvidence]
    nearest: list[NearestImage]
    heat_map: list[list[float]] | None = Field(
        default=None,
        description="Rows of patches of the square in the middle of the image, from the top left: in [-1, 1], how much "
        "each speaks for the answer rather than the other classes.",
    )


class ImageAnswer(BaseModel):
    """What one image is."""

    image: str = Field(description="The file's name, or 'image 1' and so on.")
    label: str = Field(description="The most probable class.")
    probability: float
    top: list[ClassProbability] = Field(description="The most probable classes, the first one first.")
    set: list[str] | None = Field(
        default=None,
        description="The classes that hold the true one as often as promised, where sets are made.",
    )
    unknown: bool | None = Field(
        default=None, description="Whether it is none of the classes, where that is judged."
    )
    reasons: ReasonsAnswer | None = Field(default=None, description="Why, where that was asked for.")


class PredictAnswer(BaseModel):
    """What the images of a request are, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "animals",
                "predictions": [
                    {
                        "image": "cat.jpg",
                        "label": "cat",
                        "probability": 0.98,
                        "top": [
                            {"label": "cat", "probability": 0.98},
                            {"label": "dog", "probability": 0.02},
                        ],
                    }
                ],
            }
        }
    )

    model: str
    predictions: list[ImageAnswer]


class JsonImages(BaseModel):
    """Images as the base64 of their files."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"images": [PIXEL]}})

    images: list[str] = Field(min_length=1, description="Files (JPEG, PNG, WebP and more) in base64.")


class ErrorAnswer(BaseModel):
    """Why there is no answer."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"error": "cat.jpg: the image is damaged: replace or remove it"}}
    )

    error: str


class LimitsAnswer(BaseModel):
    """What is refused with 413."""

    max_images: int = Field(description="Images of a request.")
    max_body: int = Field(description="Bytes of a request.")
    max_pixels: int = Field(description="Width times height of an image.")


class ModelAnswer(BaseModel):
    """One model."""

    name: str
    method: str = Field(description="How it was fitted.")
    platform: str = Field(description="What computes: torch or onnxruntime.")
    notes: list[str] = Field(description="What is promised of its sets, of unknown images and of heat maps.")
    explains: bool = Field(description="Whether it says why.")
    classes: list[str]


class ModelsAnswer(BaseModel):
    """The models that are served; the first one answers requests that name none."""

    models: list[ModelAnswer]
    limits: LimitsAnswer


class State(BaseModel):
    """Whether the service, or a model, is there."""

    live: bool | None = None
    ready: bool | None = None
    name: str | None = None


class HubParameters(BaseModel):
    """Parameters of the Hugging Face task image-classification."""

    top_k: int = Field(default=5, ge=1)
    function_to_apply: str | None = Field(default=None, pattern="^softmax$")


class HubRequest(BaseModel):
    """A request of the Hugging Face task image-classification."""

    model_config = ConfigDict(json_schema_extra={"example": {"inputs": PIXEL, "parameters": {"top_k": 3}}})

    inputs: str = Field(description="An image file in base64.")
    parameters: HubParameters = HubParameters()


class HubAnswer(BaseModel):
    """One class of the answer to it."""

    label: str
    score: float


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """The service, as the Open Inference Protocol describes it."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """A model, as the Open Inference Protocol describes it."""

    name: str
    versions: list[str] = []
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferInput(BaseModel):
    """The input tensor: image files, in base64 or after the JSON (``binary_data_size``)."""

    name: str
    datatype: str
    shape: list[int] = Field(max_length=2)
    parameters: dict[str, int | float | str | bool] = {}
    data: list[str] | None = None


class InferOutput(BaseModel):
    """An output tensor, row by row."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str]


class RequestedOutput(BaseModel):
    """An output that is asked for."""

    name: str


class InferRequest(BaseModel):
    """A request of the Open Inference Protocol."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [PIXEL]}]}
        }
    )

    id: str | None = None
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = []


class InferAnswer(BaseModel):
    """An answer of the Open Inference Protocol."""

    model_name: str
    id: str | None = None
    outputs: list[InferOutput]


_BODIES = (JsonImages, HubRequest, InferRequest)
_REFERENCE = "#/components/schemas/{model}"


def json_body(model: type[BaseModel]) -> Document:
    """Return what OpenAPI says of a body that is parsed by hand; ``body_schemas`` has what it refers to."""
    return {
        "schema": {"$ref": _REFERENCE.format(model=model.__name__)},
        "example": model.model_json_schema()["example"],
    }


def body_schemas() -> Document:
    """Return the schemas of the bodies that are parsed by hand, by name."""
    found: Document = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=_REFERENCE
    )[1]["$defs"]
    return found
