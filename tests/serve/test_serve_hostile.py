"""Whatever is sent as an image, the service answers with the right status, and goes on."""

from __future__ import annotations

import tempfile
from typing import Any

import psutil
import pytest
from hostile_images import hostile_images, photo
from PIL import Image
from small_service import Small, encoded, png

FILES = hostile_images()


@pytest.fixture(scope="module")
def client() -> Any:
    with Small().client() as client:
        yield client


@pytest.mark.filterwarnings("default")  # Pillow warns of some files, and the service answers all the same
@pytest.mark.parametrize("name", FILES)
def test_each_file_gets_its_status_and_a_reason(client: Any, name: str) -> None:
    content, statuses = FILES[name]
    response = client.post("/v1/predict", files=[("images", ("x.png", content))])
    assert response.status_code in statuses, response.text
    if response.status_code == 200:
        assert response.json()["predictions"][0]["label"] in ("dark", "light")
    else:
        assert response.json()["error"].startswith("x.png: ")


def test_a_file_of_another_kind_than_its_name_and_type_say_is_taken_for_what_it_is(client: Any) -> None:
    response = client.post("/v1/predict", files=[("images", ("a.jpg", png(), "image/gif"))])
    assert response.status_code == 200


def test_names_of_files_lead_nowhere(client: Any) -> None:
    names = [
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "file:///etc/passwd",
        "a\x00b",
        "\U0001f431.png",
        "x" * 500,
    ]
    for name in names:
        response = client.post("/v1/predict", files=[("images", (name, png()))])
        assert response.status_code == 200
        assert len(response.json()["predictions"][0]["image"]) <= 100
    refused = client.post("/v1/predict", json={"images": ["/etc/passwd"]})
    assert refused.status_code == 422
    assert "base64" in refused.json()["error"]


def test_no_temporary_file_is_made(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp", "_mkstemp_inner"):
        monkeypatch.setattr(tempfile, name, made)
    large = encoded(Image.effect_noise((1500, 1500), 90), "PNG")
    assert len(large) > 2_000_000
    for body in (
        {"files": [("images", ("x", large))] * 3},
        {"content": large, "headers": {"content-type": "image/png"}},
    ):
        assert client.post("/v1/predict", **body).status_code == 200


@pytest.mark.filterwarnings("default")
def test_memory_stays_flat(client: Any) -> None:
    contents = [content for name, (content, _) in FILES.items() if "4,000" not in name]

    def send(times: int) -> int:
        for content in contents * times:
            assert client.post("/v1/predict", files=[("images", ("x", content))]).status_code < 500
        return int(psutil.Process().memory_info().rss)

    before = send(2)
    assert send(3) - before < 50e6


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_memory_stays_flat_over_a_thousand_files(client: Any) -> None:
    def send(n: int) -> int:
        for number in range(n):
            content, _ = list(FILES.values())[number % len(FILES)]
            assert client.post("/v1/predict", files=[("images", ("x", content))]).status_code < 500
        return int(psutil.Process().memory_info().rss)

    before = send(200)
    assert send(1000) - before < 100e6  # two images of 16 million pixels, at any moment


def test_a_photo_is_none_of_them(client: Any) -> None:
    assert client.post("/v1/predict", files=[("images", ("x", encoded(photo(), "JPEG")))]).status_code == 200
