"""The service on a real run, and as processes: the same answers, an end that loses none, metrics of all workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from onnx_folder import write_onnx_folder
from small_service import Small, listening, png

from blocklora import FewShotClassifier
from blocklora.core.errors import BlockloraError, ConfigError
from blocklora.run.load import load_run
from blocklora.run.predict import Asked, Prediction, predict_images
from blocklora.serve.server import load_backends, make_app, serve
from blocklora.serve.settings import Limits, Settings
from blocklora.serve.torch_backend import TorchBackend

PREDICT = "/v1/predict"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")


def answers(run: Path, files: list[Path]) -> list[dict[str, float]]:
    """Return the probabilities by label that ``blocklora predict`` gives."""
    given = predict_images(load_run(run, device="cpu"), files, Asked(top_k=99))
    return [dict(answer.top) for answer in given if isinstance(answer, Prediction)]


def served(client: Any, files: list[Path]) -> list[dict[str, float]]:
    """Return those that the service gives."""
    sent = [("images", (file.name, file.read_bytes())) for file in files]
    response = client.post(PREDICT, files=sent, params={"top_k": 99})
    assert response.status_code == 200, response.text
    return [{c["label"]: c["probability"] for c in one["top"]} for one in response.json()["predictions"]]


@pytest.fixture(scope="module")
def files(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))[:12]


def test_the_answers_are_those_of_predict_alone_and_in_company(served_run: Path, files: list[Path]) -> None:
    expected = answers(served_run, files)
    with TestClient(make_app(Settings((served_run,), device="cpu"))) as client:
        together = served(client, files)
        alone = [served(client, [file])[0] for file in files]
    for one, other, third in zip(expected, together, alone, strict=True):
        assert other == pytest.approx(one, abs=1e-6)
        assert third == pytest.approx(one, abs=1e-6)


def test_sets_and_unknown_images_are_those_of_predict(served_run: Path, files: list[Path]) -> None:
    asked = Asked(top_k=1, coverage=0.8, false_alarms=0.3)
    run = load_run(served_run, device="cpu")
    expected = [one for one in predict_images(run, files, asked) if isinstance(one, Prediction)]
    settings = Settings((served_run,), device="cpu", coverage=0.8, false_alarms=0.3)
    with TestClient(make_app(settings)) as client:
        sent = [("images", (file.name, file.read_bytes())) for file in files]
        found = client.post(PREDICT, files=sent).json()["predictions"]
        assert len(client.get("/v1/models").json()["models"][0]["notes"]) == 2
    assert [(one["set"], one["unknown"]) for one in found] == [(one.set, one.unknown) for one in expected]
    with pytest.raises(ConfigError, match="an exported folder makes no sets"):
        load_backends(Settings((served_run,), backend="onnx", coverage=0.9))


def test_reasons_are_those_of_predict(served_run: Path, files: list[Path]) -> None:
    run = load_run(served_run, device="cpu")
    expected = [
        one.reasons for one in predict_images(run, files, Asked(explain=True)) if isinstance(one, Prediction)
    ]
    with TestClient(make_app(Settings((served_run,), device="cpu", explain=True))) as client:
        sent = [("images", (file.name, file.read_bytes())) for file in files]
        found = client.post(PREDICT, files=sent, params={"explain": True}).json()["predictions"]
        assert client.get("/v1/models").json()["models"][0]["explains"] is True
    for one, other in zip(found, expected, strict=True):
        why = one["reasons"]
        assert other is not None
        assert [part["label"] for part in why["evidence"]] == [label for label, _ in other.evidence]
        assert [(near["image"], near["label"]) for near in why["nearest"]] == [
            near[:2] for near in other.nearest
        ]
        assert np.asarray(why["heat_map"]) == pytest.approx(np.asarray(other.heat), abs=0.011)
        for near in why["nearest"]:
            assert near["thumbnail"].startswith("data:image/")
    with pytest.raises(ConfigError, match="does not say why"):
        load_backends(Settings((served_run,), backend="onnx", explain=True))


def test_training_images_that_are_gone_or_never_known_are_names_alone(
    served_run: Path, photos: Path, files: list[Path], clip_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(served_run, tmp_path / "moved")
    split = json.loads((tmp_path / "moved" / "split.json").read_text(encoding="utf-8"))
    (tmp_path / "moved" / "split.json").write_text(
        json.dumps(split | {"folder": str(tmp_path)}), encoding="utf-8"
    )
    config = json.loads((tmp_path / "moved" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "moved" / "config.json").write_text(
        json.dumps(config | {"data": str(tmp_path / "gone")}), encoding="utf-8"
    )
    saved = FewShotClassifier(model=str(clip_folder), method="linear-probe", device="cpu")
    some = sorted(photos.glob("*/[0-3].png"))
    saved.fit(some, [file.parent.name for file in some]).save(tmp_path / "saved")
    for name in ("moved", "saved"):
        backend = TorchBackend(tmp_path / name, device="cpu", explain=True)
        (why,) = backend.explain(np.stack([backend.prepare(files[0].read_bytes(), "x")]))
        assert all(near.thumbnail is None for near in why.nearest)
        assert str(photos) not in str(why.nearest)
        assert all(near.image.endswith(".png") for near in why.nearest)


def test_32_threads_on_one_classifier_get_the_bits_of_one(served_run: Path, files: list[Path]) -> None:
    run = load_run(served_run, device="cpu")

    def ask(place: int) -> Any:
        return list(predict_images(run, files[place % 12 :] + files[: place % 12]))

    expected = [ask(place) for place in range(12)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(64)))
    assert found == [expected[place % 12] for place in range(64)]


def test_32_clients_of_one_service_get_the_answers_of_one(served_run: Path, files: list[Path]) -> None:
    app = make_app(Settings((served_run,), device="cpu", limits=Limits(max_batch=5)))
    with listening(app) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        expected = [served(client, [file])[0] for file in files]
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda place: served(client, [files[place % 12]])[0], range(96)))
    for place, one in enumerate(found):
        assert one == pytest.approx(expected[place % 12], abs=1e-6)


def test_requests_in_flight_are_answered_when_it_stops() -> None:
    small = Small()
    with listening(small.app) as (address, stop), ThreadPoolExecutor(2) as pool:
        small.backend.gate.clear()
        sent = [pool.submit(httpx.post, address + PREDICT, content=png(n), timeout=30) for n in (0, 255)]
        for _ in sent:
            assert small.backend.prepared.acquire(timeout=20)
        stop()
        small.backend.gate.set()
        assert [one.result().json()["predictions"][0]["label"] for one in sent] == ["dark", "light"]


def test_what_cannot_be_served_is_said(served_run: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"http://127\.0\.0\.1:{port} .*choose another --port"):
            serve(Settings((served_run,)), "127.0.0.1", port, print)
    with pytest.raises(ConfigError, match="cannot listen at http://no"):
        serve(Settings((served_run,)), "no.such.host.invalid", 0, print)
    with pytest.raises(BlockloraError, match="is not a finished run"):
        load_backends(Settings((tmp_path,), device="cpu"))
    with pytest.raises(ConfigError, match="another folder is served as 'shapes' already"):
        load_backends(Settings((served_run, tmp_path / "shapes")))


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"max_wait": -1}, {"timeout": float("nan")}, {"queue": 31}]
)
def test_wrong_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)


@contextmanager
def started(*arguments: Any, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``blocklora serve`` in a process of its own."""
    command = [sys.executable, "-m", "blocklora", "serve", *map(str, arguments), "--port", "0"]
    around = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=around, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """Return the address that a service says it listens at."""
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + process.stderr.read()
    return found[0]


@posix
def test_workers_share_a_port_and_their_metrics_and_end_when_told(tmp_path: Path) -> None:
    exported = write_onnx_folder(tmp_path / "lamp")
    with started(exported, "--backend", "onnx", "--workers", 2, BLOCKLORA_TOKEN="sesame") as process:
        address, headers = address_of(process), {"authorization": "Bearer sesame"}
        sent = [("images", ("a.png", png())), ("images", ("b.png", png(0)))]
        answer = httpx.post(address + PREDICT, files=sent, headers=headers, timeout=120).json()
        assert [one["label"] for one in answer["predictions"]] == ["light", "dark"]
        assert httpx.get(f"{address}/v1/models", timeout=120).status_code == 401
        for _ in range(9):  # each on a connection of its own: now one worker answers, now the other
            text = httpx.get(f"{address}/metrics", headers=headers, timeout=120).text
            assert 'blocklora_images_total{model="lamp"} 2.0' in text
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    predicted = [line for line in lines if line["path"] == PREDICT]
    assert [(line["status"], line["model"], line["images"]) for line in predicted] == [(200, "lamp", 2)]
    assert "sesame" not in output + errors


def test_workers_that_cannot_start_are_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with started(tmp_path / "empty", "--backend", "onnx", "--workers", 2) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "export.json: cannot be read" in errors
    assert "Traceback" not in errors
