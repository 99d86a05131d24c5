"""What is written reaches its reader: in any encoding, with any name, and into a pipe that closes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import start

from blocklora.cli.app import main

NAMES = {"red_square": "\u72ac", "green disc": "\u03b1\u03b2", "blue-cross": "caf\u00e9"}


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose classes are Chinese, Greek and of a name with an accent, made in a C locale."""
    home = tmp_path_factory.mktemp("output")
    shutil.copytree(photos, home / "photos")
    for old, new in NAMES.items():
        (home / "photos" / old).rename(home / "photos" / new)
    arguments = ["--model", clip_folder, "--method", "zero-shot", "--device", "cpu"]
    done = start("fit", home / "photos", *arguments, "--out", home / "run", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    return home / "run"


def call_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[int, bytes, bytes]:
    """Run ``blocklora`` in this process, with streams of an encoding that refuse what they lack."""
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
        for name in ("stdout", "stderr")
    }
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["blocklora", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    written = []
    for stream in streams.values():
        stream.flush()
        written.append(stream.buffer.getvalue())  # type: ignore[attr-defined]
    return int(stop.value.code or 0), written[0], written[1]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_narrow_encoding_loses_nothing(encoding: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = run.parent / "photos" / "\u72ac" / "0.png"
    code, out, err = call_in(encoding, monkeypatch, "predict", run, image, image.with_name("\u732b.png"))
    shown_image = str(image).encode(encoding, "backslashreplace")
    assert (code, out.startswith(shown_image), out.count(b"%")) == (1, True, 3)
    assert "\u732b.png".encode(encoding, "backslashreplace") in err
    code, out, err = call_in(encoding, monkeypatch, "predict", run, image, "--json")
    assert code == 0, err
    (answer,) = json.loads(out.decode("ascii"))["predictions"]
    assert answer["image"] == str(image)
    assert {row["label"] for row in answer["top"]} == set(NAMES.values())
    code, out, err = call_in(encoding, monkeypatch, "evaluate", run, "--json")
    assert code == 0, err
    assert {row["class_name"] for row in json.loads(out.decode("ascii"))["per_class"]} == set(NAMES.values())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_name_of_other_bytes_is_answered_with_escapes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run.parent / "photos" / "\u72ac" / "0.png"
    shutil.copy(good, tmp_path / "good.png")
    shutil.copy(good, os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png"))
    Path(os.fsdecode(bytes(tmp_path) + b"/bad\xe9.png")).write_bytes(b"no image")
    code, out, err = call_in("utf-8", monkeypatch, "predict", run, tmp_path)
    assert code == 1
    names = [line.split(": ")[0] for line in out.decode("utf-8").splitlines()]
    assert names == [f"{tmp_path}/caf\\udce9.png", f"{tmp_path}/good.png"]
    assert b"bad\\udce9.png" in err
    code, out, err = call_in("utf-8", monkeypatch, "predict", run, tmp_path, "--json")
    result = json.loads(out)
    images = [item["image"] for item in result["predictions"]]
    assert images == [f"{tmp_path}/caf\\udce9.png", f"{tmp_path}/good.png"]
    assert [item["image"] for item in result["unreadable"]] == [f"{tmp_path}/bad\\udce9.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("more", [["datasets"], ["datasets", "--json"], ["fit", "-h"]])
def test_a_pipe_that_closes_is_no_failure(more: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "blocklora", *more], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141 if "-h" not in more else 1, b"")
