"""What is remembered of files, and when it is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import pytest

from blocklora.core.errors import DataError, ImageError
from blocklora.data import index_cache
from blocklora.data.index_cache import cache_folder, digests, listings

OLD = 10**18  # nanoseconds: 2001, long ago


@pytest.fixture
def count_reads(monkeypatch, tmp_path):
    """A list of what was really read, with a cache of its own."""
    monkeypatch.setenv("BLOCKLORA_CACHE", str(tmp_path / "cache"))
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


def test_what_has_just_changed_is_not_remembered(count_reads, tmp_path):
    path = tmp_path / "one"
    path.write_text("1", encoding="utf-8")
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


def test_what_is_kept_is_text(count_reads, tmp_path):
    path = write(tmp_path / "one", "1")
    digests([path])
    with index_cache._open() as connection:
        rows = connection.execute("SELECT kind, size, mtime, value FROM known").fetchall()
    connection.close()
    assert rows == [("sha256", 1, OLD, sha("1"))]
    assert json.dumps(rows)
