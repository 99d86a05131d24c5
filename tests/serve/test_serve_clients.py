"""Clients that exist already: Hugging Face's, and those of the Open Inference Protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from small_service import Small, listening, png

INFER = "/v2/models/lamp/infer"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with Small(max_images=3).client() as client:
        yield client


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def request(*images: bytes, **more: Any) -> dict[str, Any]:
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(images)],
        "data": [base64_of(i) for i in images],
    }
    return {"inputs": [tensor | more]}


def binary(*images: bytes, size: int | None = None) -> tuple[bytes, dict[str, str]]:
    """Return a body and headers with images after the JSON, as Triton's clients send them."""
    rest = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    parameters = {"binary_data_size": len(rest) if size is None else size}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images), 1], "parameters": parameters}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + rest, {"inference-header-content-length": str(len(text))}


def test_the_hub_client_sends_bytes_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with listening(Small(token="sesame").app) as (address, _):
        hub = InferenceClient(model=f"{address}/models/lamp", token="sesame")
        assert [(one.label, one.score) for one in hub.image_classification(png(255))] == [
            ("light", 1),
            ("dark", 0),
        ]
        assert [one.label for one in hub.image_classification(png(0), top_k=1)] == ["dark"]
        with pytest.raises(HfHubHTTPError, match="401"):
            InferenceClient(model=f"{address}/models/lamp", token="other").image_classification(png())


def test_the_hub_task_in_json(client: TestClient) -> None:
    whole = {"inputs": base64_of(png(0)), "parameters": {"top_k": 1, "function_to_apply": "softmax"}}
    assert client.post("/models/lamp", json=whole).json() == [{"label": "dark", "score": 1.0}]
    assert client.post("/models/sun", json=whole).status_code == 404
    for wrong in ({"top_k": 0}, {"function_to_apply": "sigmoid"}):
        assert client.post("/models/lamp", json=whole | {"parameters": wrong}).status_code == 422


def test_metadata_of_the_service_and_of_a_model(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    answer = client.get("/v2/models/lamp").json()
    assert answer["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in answer["outputs"]] == ["probabilities", "label"]
    assert answer["outputs"][0]["shape"] == [-1, 2]
    assert client.get("/v2/models/sun").status_code == 404
    assert client.get("/v2/models/sun/ready").status_code == 404


def test_an_inference_gives_both_tensors_row_by_row(client: TestClient) -> None:
    answer = client.post(INFER, json=request(png(255), png(0)) | {"id": "7"}).json()
    assert answer == {
        "model_name": "lamp",
        "id": "7",
        "outputs": [
            {"name": "probabilities", "datatype": "FP64", "shape": [2, 2], "data": [0, 1, 1, 0]},
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["light", "dark"]},
        ],
    }


def test_the_outputs_that_are_asked_for(client: TestClient) -> None:
    answer = client.post(INFER, json=request(png()) | {"outputs": [{"name": "label"}]}).json()
    assert [output["name"] for output in answer["outputs"]] == ["label"]
    assert "id" not in answer


def test_images_after_the_json(client: TestClient) -> None:
    content, headers = binary(png(255), png(0))
    answer = client.post(INFER, content=content, headers=headers).json()
    assert answer["outputs"][1]["data"] == ["light", "dark"]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (request(png()) | {"inputs": []}, "inputs"),
        (request(png(), name="pixels"), "image"),
        (request(png(), datatype="UINT8"), "BYTES"),
        (request(png(), shape=[2]), "shape"),
        (request(png(), shape=[1, 2]), "shape"),
        (request(png(), data=["cat.jpg!"]), "base64"),
        (request(png(), data=None), "binary_data_size"),
        (request(), "shape"),
        (request(png()) | {"outputs": [{"name": "heat"}]}, "probabilities"),
    ],
)
def test_what_is_wrong_with_an_inference_is_said(client: TestClient, wrong: Any, word: str) -> None:
    response = client.post(INFER, json=wrong)
    assert response.status_code == 422
    assert word in response.json()["error"]


def test_wrong_lengths_of_binary_data_are_refused(client: TestClient) -> None:
    content, headers = binary(png())
    for text, status in (("99999", 400), ("-1", 400), ("x", 400), ("9" * 30, 400), ("2", 400)):
        changed = headers | {"inference-header-content-length": text}
        assert client.post(INFER, content=content, headers=changed).status_code == status
    assert client.post(INFER, content=content[:-1], headers=headers).status_code == 422
    for cut in (1, 3):
        content, headers = binary(png(), size=len(png()) + 4 + cut)
        assert client.post(INFER, content=content + b"\xff" * cut, headers=headers).status_code == 422
    content, headers = binary(*[png()] * 4)
    assert client.post(INFER, content=content, headers=headers).status_code == 413
