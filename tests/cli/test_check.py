"""``blocklora check`` as a person drives it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import call
from PIL import Image


@pytest.fixture
def conflict(tmp_path):
    """Two classes, with one image under both of them."""
    draw = np.random.default_rng(0)
    for label in ("hat", "shoe"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            noise = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            noise.resize((64, 64)).save(tmp_path / "data" / label / f"{number}.png")
    content = (tmp_path / "data" / "hat" / "0.png").read_bytes()
    (tmp_path / "data" / "shoe" / "copy.png").write_bytes(content)
    return tmp_path / "data"


def test_json_is_the_contract(conflict, clip_folder, capsys, monkeypatch):
    code, out, _ = call(capsys, monkeypatch, "check", conflict, "--model", clip_folder, "--json")
    assert code == 0
    document = json.loads(out)
    assert document.keys() == {"findings"}
    first = document["findings"][0]
    assert first["kind"] == "conflict"
    assert sorted(first["images"]) == ["hat/0.png", "shoe/copy.png"]
    assert first.keys() == {"kind", "images", "score", "message"}


def test_people_read_what_was_found_and_what_to_do(conflict, clip_folder, tmp_path, capsys, monkeypatch):
    page, table = tmp_path / "page.html", tmp_path / "found.csv"
    code, out, _ = call(
        capsys, monkeypatch, "check", conflict, "--model", clip_folder, "--out", page, "--csv", table
    )
    assert code == 0
    assert out.startswith("data: 9 images (train 9) of 2 classes, looked at with the model ")
    assert "One image under two labels: 1. Keep it under the right one.\n  hat/0.png and shoe/copy.png" in out
    assert f"written to {page}" in out
    assert page.is_file()
    assert table.read_text(encoding="utf-8").startswith("kind,image,")


@pytest.mark.parametrize(
    ("kinds", "code"),
    [("conflicts", 1), ("leaks,conflict", 1), ("duplicates", 1), ("any", 1), ("leaks", 0), ("blank", 0)],
)
def test_a_pipeline_fails_on_what_it_asks_for(conflict, clip_folder, capsys, monkeypatch, kinds, code):
    found, _, err = call(capsys, monkeypatch, "check", conflict, "--model", clip_folder, "--fail-on", kinds)
    assert found == code
    assert (f"error: --fail-on {kinds}: found" in err) == bool(code)


def test_wrong_words_are_named_before_anything_is_read(conflict, capsys, monkeypatch):
    code, _, err = call(capsys, monkeypatch, "check", conflict, "--fail-on", "leeks")
    assert code == 1
    assert "--fail-on 'leeks': expected some of any, duplicates, unreadable" in err
    assert "did you mean 'leak'?" in err
    assert call(capsys, monkeypatch, "check", conflict / "none")[0] == 1
    code, _, err = call(capsys, monkeypatch, "check", conflict, "--csv", conflict / "none" / "x.csv")
    assert (code, "x.csv: there is no folder" in err) == (1, True)
