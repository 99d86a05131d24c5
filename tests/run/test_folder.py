"""A RUN folder is new, goes on, is finished, or is somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import names

from blocklora.core.errors import RunError
from blocklora.core.files import write_json
from blocklora.data import DataChoice
from blocklora.run.folder import (
    check_origin,
    check_run,
    data_choice,
    free_folder,
    read_json,
    start_run,
)

CONFIG: dict[str, Any] = {"data": "photos", "seed": 1, "lr": 0.1}
ORIGIN = {"model_sha256": "ab", "versions": {"torch": "2.8", "blocklora": "1"}}
RECORD = {"train": [], "val": [], "training_hash": "cd"}


@pytest.fixture
def started(tmp_path: Path) -> Path:
    start_run(tmp_path, CONFIG, ORIGIN, RECORD)
    return tmp_path


def test_a_new_and_a_started_run(tmp_path: Path) -> None:
    assert check_run(tmp_path, CONFIG, RECORD, resume=False) is None
    (tmp_path / ".hidden").touch()
    assert check_run(tmp_path, CONFIG, RECORD, resume=False) is None
    start_run(tmp_path, CONFIG, ORIGIN, RECORD)
    assert check_run(tmp_path, CONFIG, RECORD, resume=True) is None
    with pytest.raises(RunError, match="holds an unfinished run; add --resume"):
        check_run(tmp_path, CONFIG, RECORD, resume=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CONFIG | {"lr": 0.2}, r"was started with lr = 0\.1, not 0\.2"),
        (CONFIG | {"deterministic": True}, "was started with deterministic = None, not True"),
        ({"data": "photos", "seed": 1}, r"was started with lr = 0\.1, not None"),
    ],
)
def test_other_settings_are_named(started: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check_run(started, config, RECORD, resume=True)


def test_other_images(started: Path) -> None:
    with pytest.raises(RunError, match="the images have changed since this run was started"):
        check_run(started, CONFIG, RECORD | {"training_hash": "ef"}, resume=True)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"model_sha256": "xx", "versions": ORIGIN["versions"]}, "the base model has other weights"),
        (ORIGIN | {"versions": {"torch": "2.9", "blocklora": "1"}}, r"torch 2\.8 \(now 2\.9\), and would"),
        (ORIGIN | {"versions": {"torch": "2.9", "blocklora": "2"}}, r"torch 2\.8 .*, blocklora 1 \(now 2\)"),
        (ORIGIN | {"versions": {**ORIGIN["versions"], "transformers": "5"}}, r"transformers None \(now 5\)"),  # type: ignore[dict-item]
    ],
)
def test_another_origin_is_named(started: Path, origin: dict[str, Any], message: str) -> None:
    check_origin(started, ORIGIN, resume=True)
    check_origin(started, origin, resume=False)
    with pytest.raises(RunError, match=message):
        check_origin(started, origin, resume=True)


def test_a_run_from_before_origins_were_recorded(started: Path) -> None:
    write_json(started / "config.json", CONFIG)
    check_origin(started, ORIGIN, resume=True)


def test_a_freed_folder_keeps_what_is_not_ours(started: Path) -> None:
    (started / "adapter").mkdir()
    for name in (
        "adapter/adapter_config.json",
        "classifier.json",
        "predictions.csv",
        "confusion.csv",
        "report.html",
        "mine.txt",
    ):
        (started / name).touch()
    free_folder(started)
    assert names(started) == ["mine.txt"]


def test_the_data_of_a_run() -> None:
    choice = DataChoice("photos", "root", "clip-lora", None, "base", "names.txt")
    assert data_choice({**choice.to_json(), "lr": 1}).classes == "base"
    assert data_choice({"data": "photos"}) == DataChoice("photos")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"[1]", "holds no JSON object"),
        (b"\xff", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_not_whole(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=rf"config\.json: {message}"):
        read_json(tmp_path / "config.json")
