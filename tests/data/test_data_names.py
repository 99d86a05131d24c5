from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.data.names import Finder, same_name


def test_a_name_that_is_there_as_written_needs_no_list(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").touch()
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("listed"))
    assert Finder().find(tmp_path, "a/b.png") == tmp_path / "a" / "b.png"
    assert Finder().find(tmp_path / "c", str(tmp_path / "a" / "b.png")) == tmp_path / "a" / "b.png"


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    for n in range(9):
        (tmp_path / f"e\u0301{n}.png").touch()
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or real(folder))
    finder = Finder()
    if not os.path.exists(tmp_path / "\u00e90.png"):  # some disks take both forms for one
        assert all(finder.find(tmp_path, f"\u00e9{n}.png") for n in range(9))
        assert finder.find(tmp_path, str(tmp_path / "\u00e91.png")) == tmp_path / "e\u03011.png"
        assert listed == [tmp_path]
    assert finder.find(tmp_path, "gone.png") is None
    assert finder.find(tmp_path / "gone", "a.png") is None
    assert finder.find(tmp_path, "") is None
    assert finder.find(tmp_path, "a\0b") is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_escapes_find_a_name_that_is_no_unicode(tmp_path):
    path = tmp_path / "caf\udce9.png"
    path.touch()
    assert Finder().find(tmp_path, "caf\\udce9.png") == path


@given(st.text())
def test_a_shared_form_is_its_own(name):
    assert same_name(same_name(name)) == same_name(name)
