"""What is remembered of files, and when it is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from blocklora.core.errors import DataError, ImageError
from blocklora.data import index_cache
from blocklora.data.index_cache import cache_folder, digests, listings

OLD = 10**18  # nanoseconds: 2001, long ago


@pytest.fixture
def count_reads(monkeypatch, tmp_path):
    """A list of what was really read, with a cache of its own."""
    monkeypatch.setenv("BLOCKLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_FRESH_NS", -1)  # as if all was written long ago
    reads = []
    for name in ("_sha256", "_listing"):
        real = getattr(index_cache, name)
        monkeypatch.setattr(index_cache, name, lambda path, real=real: reads.append(path.name) or real(path))
    return reads


def write(path, text, time=OLD):
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(time, time))
    return path


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_read_once(count_reads, tmp_path):
    one, two = write(tmp_path / "one", "1"), write(tmp_path / "two", "2")
    assert digests([one, two, one]) == [sha("1"), sha("2"), sha("1")]
    assert digests([two, one]) == [sha("2"), sha("1")]
    assert sorted(count_reads) == ["one", "two"]


@pytest.mark.parametrize(("text", "time"), [("another size", OLD), ("2", OLD + 10**9)])
def test_another_size_or_time_is_another_file(text, time, count_reads, tmp_path):
    path = write(tmp_path / "one", "1")
    digests([path])
    write(path, text, time)
    assert digests([path]) == [sha(text)]
    assert count_reads == ["one", "one"]


def test_equal_size_and_time_do_not_hide_a_change(count_reads, tmp_path):
    path = write(tmp_path / "one", "1")
    digests([path])
    write(tmp_path / "new", "2")
    os.replace(tmp_path / "new", path)  # another inode
    assert digests([path]) == [sha("2")]
    real = os.stat

    def touched(name, **more):
        found = real(name, **more)
        facts = {
            key: getattr(found, key) for key in ("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
        }
        return SimpleNamespace(**facts | {"st_ctime_ns": facts["st_ctime_ns"] + 10**6})

    count_reads.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", touched)
        digests([path])
    assert count_reads == ["one"]


@pytest.mark.parametrize("old", ["mtime", "neither"])
def test_what_has_just_changed_is_not_remembered(count_reads, tmp_path, monkeypatch, old):
    monkeypatch.setattr(index_cache, "_FRESH_NS", 2 * 10**9)
    path = tmp_path / "one"
    path.write_text("1", encoding="utf-8")
    if old == "mtime":
        os.utime(path, ns=(OLD, OLD))
    assert digests([path]) == digests([path]) == [sha("1")]
    assert count_reads == ["one", "one"]


def test_folders_are_listed_in_code_point_order_without_hidden_names(count_reads, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b", "B", ".hidden", "ä", "a10", "a9"):
        (folder / name).touch()
    os.utime(folder, ns=(OLD, OLD))
    assert listings([folder]) == listings([folder]) == [["B", "a10", "a9", "b", "ä"]]
    assert count_reads == ["folder"]
    (folder / "c").touch()
    assert "c" in listings([folder])[0]


def test_a_cache_that_cannot_be_used_is_no_error(count_reads, tmp_path, monkeypatch):
    path = write(tmp_path / "one", "1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "index.sqlite").write_text("this is no database", encoding="utf-8")
    assert digests([path]) == [sha("1")]
    monkeypatch.setenv("BLOCKLORA_CACHE", str(path / "below-a-file"))
    assert digests([path]) == [sha("1")]


def test_more_files_than_one_question_takes(count_reads, tmp_path):
    paths = [write(tmp_path / f"{n}", f"{n}") for n in range(1100)]
    expected = [sha(f"{n}") for n in range(1100)]
    assert digests(paths) == digests(paths) == expected
    assert len(count_reads) == 1100


def test_what_is_gone_is_named(tmp_path):
    with pytest.raises(ImageError, match="gone: the file can no longer be read"):
        digests([tmp_path / "gone"])
    with pytest.raises(DataError, match="gone: this folder cannot be listed"):
        listings([tmp_path / "gone"])


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("BLOCKLORA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("BLOCKLORA_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "blocklora"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "w"))
    assert cache_folder() == tmp_path / "w" / "blocklora"


def test_who_has_no_home_has_a_cache_all_the_same(monkeypatch, tmp_path):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("BLOCKLORA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache_folder().parent in (tmp_path, tmp_path / ".cache")


def test_a_cache_that_cannot_be_written_is_read(count_reads, tmp_path, monkeypatch):
    one, two = write(tmp_path / "one", "1"), write(tmp_path / "two", "2")
    digests([one])
    count_reads.clear()
    real = sqlite3.connect

    def read_only(path, **more):
        return real(f"file:{path}?mode=ro", uri=True, **more)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    assert digests([one, two]) == [sha("1"), sha("2")]
    assert digests([one, two]) == [sha("1"), sha("2")]
    assert count_reads == ["two", "two"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_unicode_is_remembered_like_others(count_reads, tmp_path):
    odd, plain = write(tmp_path / "caf\udce9", "1"), write(tmp_path / "two", "2")
    assert digests([odd, plain]) == digests([odd, plain]) == [sha("1"), sha("2")]
    assert len(count_reads) == 2


def test_what_is_kept_is_text(count_reads, tmp_path):
    path = write(tmp_path / "one", "1")
    digests([path])
    with index_cache._open() as connection:
        rows = connection.execute("SELECT kind, stamp, value FROM stamped").fetchall()
    connection.close()
    status = path.stat()
    assert rows == [("sha256", f"1 {OLD} {status.st_ctime_ns} {status.st_ino}", sha("1"))]
    assert json.dumps(rows)
