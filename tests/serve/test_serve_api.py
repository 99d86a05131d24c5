"""What is asked over HTTP, and what is answered: every endpoint, every status, every limit."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from small_service import Small, png

PREDICT = "/v1/predict"
ASSERTIONS = pytest.mark.parametrize


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def small() -> Small:
    return Small(max_images=4, max_body=50_000, max_pixels=1000)


@pytest.fixture(scope="module")
def client(small: Small) -> Iterator[TestClient]:
    with small.client() as client:
        yield client


def send(client: TestClient, *images: bytes, **more: Any) -> Any:
    return client.post(
        PREDICT, files=[("images", (f"{n}.png", image)) for n, image in enumerate(images)], **more
    )


def check_error(response: Any, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    for word in words:
        assert word in response.json()["error"]


def test_one_image_in_a_form(client: TestClient) -> None:
    answer = send(client, png(255)).json()
    assert answer == {
        "model": "lamp",
        "predictions": [
            {
                "image": "0.png",
                "label": "light",
                "probability": 1.0,
                "top": [{"label": "light", "probability": 1.0}, {"label": "dark", "probability": 0.0}],
            }
        ],
    }


def test_several_images_keep_their_order(client: TestClient) -> None:
    answer = send(client, png(255), png(0), png(51)).json()["predictions"]
    assert [one["image"] for one in answer] == ["0.png", "1.png", "2.png"]
    assert [one["label"] for one in answer] == ["light", "dark", "dark"]
    assert answer[2]["probability"] == pytest.approx(0.8)


def test_images_as_json_and_as_the_body_itself(client: TestClient) -> None:
    answer = client.post(PREDICT, json={"images": [base64_of(png(0)), base64_of(png(255))]}).json()
    assert [(one["image"], one["label"]) for one in answer["predictions"]] == [
        ("image 1", "dark"),
        ("image 2", "light"),
    ]
    for kind in ("image/png", "image/jpeg", "application/octet-stream", "IMAGE/PNG; x=1", ""):
        answer = client.post(PREDICT, content=png(0), headers={"content-type": kind}).json()
        assert answer["predictions"][0]["label"] == "dark"


def test_model_and_number_of_classes_are_asked_for(client: TestClient) -> None:
    answer = send(client, png(), params={"model": "moon", "top_k": 1}).json()
    assert answer["model"] == "moon"
    assert [len(one["top"]) for one in answer["predictions"]] == [1]
    assert len(send(client, png(), params={"top_k": 99}).json()["predictions"][0]["top"]) == 2
    check_error(send(client, png(), params={"model": "sun"}), 404, "lamp, moon")
    for wrong in ("0", "-1", "many", ""):
        check_error(send(client, png(), params={"top_k": wrong}), 422, "query.top_k")


def test_sets_and_unknown_images_are_told_where_they_are_judged() -> None:
    small = Small()
    with small.client() as client:
        assert set(send(client, png()).json()["predictions"][0]) == {"image", "label", "probability", "top"}
        small.backend.more = {"set": ("light", "dark"), "unknown": False}
        answer = send(client, png()).json()["predictions"][0]
        assert (answer["set"], answer["unknown"]) == (["light", "dark"], False)


def test_reasons_are_given_where_they_are_asked_for(client: TestClient) -> None:
    answer = send(client, png(), png(0), params={"explain": True}).json()["predictions"]
    assert [one["label"] for one in answer] == ["light", "dark"]
    for one in answer:
        assert one["reasons"]["evidence"][0] == {"label": "light", "above_mean": 1.5}
        assert one["reasons"]["heat_map"] == [[1.0, -1.0], [1.0, -1.0]]
        first, second = one["reasons"]["nearest"]
        assert first.pop("thumbnail").startswith("data:image/png;base64,")
        assert first == {"image": "day/1.png", "label": "light", "cosine": 0.9}
        assert second == {"image": "night/1.png", "label": "dark", "cosine": 0.1}
    assert "reasons" not in send(client, png()).json()["predictions"][0]
    check_error(send(client, png(), params={"explain": True, "model": "moon"}), 422, "moon", "--explain")
    check_error(send(client, png(), params={"explain": "why"}), 422, "query.explain")


def test_models_are_listed_with_what_is_refused(client: TestClient) -> None:
    answer = client.get("/v1/models").json()
    assert [model["name"] for model in answer["models"]] == ["lamp", "moon"]
    assert answer["models"][0] == {
        "name": "lamp", "method": "brightness", "platform": "numpy", "notes": [], "explains": True,
        "classes": ["dark", "light"],
    }  # fmt: skip
    assert answer["limits"] == {"max_images": 4, "max_body": 50_000, "max_pixels": 1000}


@ASSERTIONS("path", ["/healthz", "/v2/health/live"])
def test_it_lives(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"live": True}


@ASSERTIONS("path", ["/readyz", "/v2/health/ready"])
def test_it_is_ready_while_its_models_answer(path: str) -> None:
    small = Small()
    with small.client() as client:
        assert client.get(path).json() == {"ready": True}
        assert client.get("/v2/models/moon/ready").json() == {"name": "moon", "ready": True}
        client.portal.call(small.service.models["moon"].batcher.stop)  # type: ignore[union-attr]
        check_error(client.get(path), 503)
        check_error(client.get("/v2/models/moon/ready"), 503)
        assert client.get("/v2/models/lamp/ready").json() == {"name": "lamp", "ready": True}


def test_too_much_is_refused(client: TestClient) -> None:
    check_error(send(client, *[png()] * 5), 413, "4 images at most")
    check_error(client.post(PREDICT, json={"images": ["AAAA"] * 5}), 413, "4 images at most")
    check_error(send(client, bytes(50_001)), 413, "50000 bytes at most")
    check_error(
        client.post(PREDICT, content=iter([bytes(30_000)] * 2), headers={"content-type": "image/png"}), 413
    )
    check_error(send(client, png(side=32)), 413, "32 x 32 pixels are more than the 1000")
    assert send(client, *[png(side=31)] * 4).status_code == 200


def test_other_types_are_refused(client: TestClient) -> None:
    check_error(send(client, b"<svg></svg>"), 415, "0.png", "JPEG")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        check_error(
            client.post(PREDICT, content=png(), headers={"content-type": kind}), 415, "multipart/form-data"
        )


def test_malformed_bodies_are_refused(client: TestClient) -> None:
    for body in (b"", b"{", b"[" * 40_000, b"\xff\xfe", b'{"images": [' + b"9" * 9000 + b"]}"):
        status = client.post(PREDICT, content=body, headers={"content-type": "application/json"}).status_code
        assert status in (400, 422)
    for wrong in (
        {},
        {"images": []},
        {"images": "x"},
        {"images": [1]},
        {"images": ["AAAA"], "path": "/etc/passwd"},
        [],
    ):
        check_error(client.post(PREDICT, json=wrong), 422)
    check_error(client.post(PREDICT, json={"images": ["cat.jpg!"]}), 422, "base64")
    form = {"content-type": "multipart/form-data; boundary=x"}
    check_error(client.post(PREDICT, content=b"--y\r\nnonsense", headers=form), 400, "form")
    check_error(
        client.post(PREDICT, content=b"", headers={"content-type": "multipart/form-data"}), 400, "boundary"
    )
    check_error(client.post(PREDICT, files=[("other", ("a", png()))]), 422, "images")
    check_error(client.post(PREDICT, data={"images": "a"}, files=[("images", ("a", png()))]), 422, "images")
    nothing = b"--x--\r\n"
    check_error(client.post(PREDICT, content=nothing, headers=form), 422, "no file")


def test_a_wrong_image_among_others_is_named(client: TestClient) -> None:
    check_error(send(client, png(), png()[:50], png()), 422, "1.png: ")


def test_unknown_paths_and_methods(client: TestClient) -> None:
    check_error(client.get("/nothing"), 404)
    check_error(client.get("/../../etc/passwd"), 404)
    response = client.put(PREDICT)
    check_error(response, 405)
    assert response.headers["allow"] == "POST"


def test_a_full_queue_says_when_to_come_back(small: Small, client: TestClient) -> None:
    batcher = small.service.models["lamp"].batcher
    with batcher.admit(61):
        assert send(client, png(), png(), png()).status_code == 200
        refused = send(client, png(), png(), png(), png())
        check_error(refused, 429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert send(client, *[png()] * 4, params={"model": "moon"}).status_code == 200
        with batcher.admit(3):
            check_error(send(client, png()), 429)
    assert batcher.held == 0
    assert send(client, *[png()] * 4).status_code == 200


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    small = Small(timeout=0.1)
    with small.client() as client:
        small.backend.gate.clear()
        response = send(client, png())
        check_error(response, 503, "0.1 s")
        assert response.headers["retry-after"] == "1"
        assert small.service.models["lamp"].batcher.held == 0
        small.backend.gate.set()


def test_a_fault_of_the_service_is_a_500_without_its_words() -> None:
    small = Small()
    small.backend.fault = RuntimeError("a secret")
    with small.client() as client:
        response = send(client, png())
        check_error(response, 500)
        assert "secret" not in response.text
        small.backend.fault = None
        assert send(client, png()).status_code == 200
    assert [line["status"] for line in small.log] == [500, 200]


async def drive(small: Small, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Send an application the messages of one request, then none; return what it sends."""
    sent: list[dict[str, Any]] = []
    waiting = list(messages)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": PREDICT,
        "raw_path": PREDICT.encode(), "query_string": b"", "headers": [(b"content-type", b"image/png")],
        "client": ("127.0.0.1", 1), "server": ("testserver", 80), "scheme": "http", "root_path": "",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(20):
        await small.app(scope, receive, send)
    return sent


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    small = Small(timeout=0.05)

    async def inside() -> None:
        async with small.service.running():
            assert (await drive(small, body(png()[:9], more=True)))[0]["status"] == 408
            assert small.service.models["lamp"].batcher.held == 0

    asyncio.run(inside())


def test_what_is_asked_by_a_client_that_goes_is_left_undone() -> None:
    small = Small(max_batch=1)

    async def inside() -> None:
        async with small.service.running():
            small.backend.gate.clear()
            first = asyncio.create_task(drive(small, body(png())))
            await asyncio.to_thread(small.backend.begun.wait, 20)
            gone = {"type": "http.disconnect"}
            assert [one["status"] for one in await drive(small, body(png()), gone) if "status" in one] == [
                499
            ]
            await drive(small, body(b"", more=True), gone)
            assert small.service.models["lamp"].batcher.held == 1
            small.backend.gate.set()
            assert (await first)[0]["status"] == 200
            assert small.backend.sizes == [1]

    asyncio.run(inside())
    assert [line["status"] for line in small.log] == [499, 499, 200]


def test_the_token_is_asked_for() -> None:
    small = Small(token="open-sesame")
    right = {"authorization": "Bearer open-sesame"}
    with small.client() as client:
        for path in (
            "/",
            "/page.js",
            "/page.css",
            "/healthz",
            "/readyz",
            "/v2/health/live",
            "/v2/health/ready",
        ):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/metrics", "/v2", "/v2/models/lamp", "/nothing"):
            refused = client.get(path)
            check_error(refused, 401, "token")
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in (
            "Bearer open-sesam",
            "Bearer open-sesame2",
            "open-sesame",
            "Basic open-sesame",
            "",
            "Bearer \xe9",
        ):
            check_error(send(client, png(), headers={"authorization": wrong.encode("latin-1")}), 401)
        assert send(client, png(), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        document = client.get("/openapi.json").json()
        assert document["paths"][PREDICT]["post"]["security"] == [{"token": []}]
        assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "sesame" not in json.dumps(small.log)


def test_the_log_says_what_was_asked_and_never_what_was_sent() -> None:
    small = Small()
    with small.client() as client:
        first = send(client, png(), png(), params={"top_k": 1})
        client.get('/nothing"%0A{"status": 200}')
    line = small.log[0]
    assert set(line) == {"time", "id", "client", "method", "path", "status", "ms", "model", "images"}
    assert (line["method"], line["path"], line["status"]) == ("POST", PREDICT, 200)
    assert (line["model"], line["images"], line["id"]) == ("lamp", 2, first.headers["x-request-id"])
    assert "0.png" not in json.dumps(small.log)
    assert len(json.dumps(small.log[1]).splitlines()) == 1


def test_metrics_count_requests_images_and_batches() -> None:
    small = Small()
    with small.client() as client:
        send(client, png(), png())
        send(client, b"no")
        client.get("/nothing")
        lines = client.get("/metrics").text.splitlines()
    for line in (
        'blocklora_requests_total{path="/v1/predict",status="200"} 1.0',
        'blocklora_requests_total{path="/v1/predict",status="415"} 1.0',
        'blocklora_requests_total{path="other",status="404"} 1.0',
        'blocklora_images_total{model="lamp"} 2.0',
        'blocklora_images_total{model="moon"} 0.0',
        'blocklora_batch_images_sum{model="lamp"} 2.0',
        'blocklora_request_seconds_count{path="/v1/predict"} 2.0',
        'blocklora_held_images{model="lamp"} 0.0',
    ):
        assert line in lines


def test_browsers_are_kept_strict(client: TestClient) -> None:
    for path in ("/v1/models", "/nothing", "/"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in headers["content-security-policy"]


def test_the_openapi_document_has_an_example_for_each_body(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document)
    for path in (PREDICT, "/models/{name}", "/v2/models/{name}/infer"):
        example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path.format(name="lamp"), json=example).status_code == 200
