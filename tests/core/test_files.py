from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from blocklora.core import files
from blocklora.core.errors import RunError


def test_write_json_round_trip_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"é": [1, 2.5]})
    files.write_json(path, {"é": 3})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 3}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_name_that_is_no_unicode_is_written_and_read_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", ["caf\udce9.png", "é"])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == ["caf\udce9.png", "é"]


def test_nan_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, float("nan"))
    assert path.read_text(encoding="utf-8") == "1\n"


def test_a_long_name_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    files.write_bytes(path, b"x")
    with files.write_folder(tmp_path / ("f" * 250)) as folder:
        (folder / "a").touch()
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, code: int
) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(code, "No space left on device")

    monkeypatch.setattr(os, stage, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.bin'"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


NOT_SUPPORTED = [
    PermissionError(errno.EPERM, "Operation not permitted"),
    OSError(errno.ENOTSUP, "Operation not supported"),
    OSError(errno.EINVAL, "Invalid argument"),
    OSError("a driver that gives no number"),
]


@pytest.mark.parametrize("error", NOT_SUPPORTED)
def test_a_file_system_without_permissions_and_flushing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(Path, "chmod", refuse)
    for text in ("1", "2"):
        files.write_text(tmp_path / "a", text)
        with files.write_folder(tmp_path / "b") as folder:
            (folder / "c").mkdir()
            (folder / "c" / "d").write_text(text, encoding="utf-8")
        assert (tmp_path / "a").read_text(encoding="utf-8") == text
        assert (tmp_path / "b" / "c" / "d").read_text(encoding="utf-8") == text
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_files_and_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: flushed.append("folder" if _is_folder(handle) else "file")
    )
    files.write_bytes(tmp_path / "a", b"1")
    assert flushed == ["file", *["folder"] * (os.name != "nt")]
    flushed.clear()
    with files.write_folder(tmp_path / "b") as folder:
        (folder / "c").mkdir()
        (folder / "c" / "d").touch()
        (folder / "e").touch()
    assert sorted(flushed) == ["file"] * 2 + ["folder"] * 3 * (os.name != "nt")  # b, c and the parent


def _is_folder(handle: int) -> bool:
    import stat

    return stat.S_ISDIR(os.fstat(handle).st_mode)


def write_half(target: Path) -> None:
    """Fail in the middle of writing a folder."""
    with files.write_folder(target) as folder:
        (folder / "two").write_text("2", encoding="utf-8")
        raise RuntimeError("half way")


def write_whole(target: Path, text: str) -> None:
    """Write a folder of two files that hold a text."""
    with files.write_folder(target) as folder:
        (folder / "one").write_text(text, encoding="utf-8")
        (folder / "inner").mkdir()
        (folder / "inner" / "two").write_text(text, encoding="utf-8")


def held(folder: Path) -> set[str]:
    """Return the texts of such a folder, after checking that both files are there."""
    return {(folder / name).read_text(encoding="utf-8") for name in ("one", "inner/two")}


def test_write_folder_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.write_folder(target) as folder:
        (folder / "one").write_text("1", encoding="utf-8")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(target)
    assert [p.name for p in target.iterdir()] == ["one"]
    with files.write_folder(target) as folder:
        (folder / "three").write_text("3", encoding="utf-8")
    assert [p.name for p in target.iterdir()] == ["three"]
    assert os.listdir(tmp_path) == ["out"]


class FailAt:
    """Makes the n-th call of any of some functions fail with a full disk; with ``on`` all later ones, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, on: bool) -> None:
        self.n, self.on, self.calls = n, on, 0
        for owner, name in ((os, "replace"), (os, "fsync"), (tempfile, "mkdtemp"), (Path, "write_text")):
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, real):  # type: ignore[no-untyped-def]
        def call(*args, **more):  # type: ignore[no-untyped-def]
            self.calls += 1
            if self.calls == self.n or (self.on and self.calls > self.n):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **more)

        return call


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_a_failure_at_any_step_leaves_the_old_or_the_new_folder_and_nothing_else(
    tmp_path: Path, there: bool, on: bool
) -> None:
    failed = 0
    for n in range(1, 30):
        place = tmp_path / f"{n}"
        place.mkdir()
        target = place / "out"
        if there:
            write_whole(target, "old")
        with pytest.MonkeyPatch.context() as patch:
            steps = FailAt(patch, n, on)
            try:
                write_whole(target, "new")
            except OSError as error:
                failed += 1
                moved = "the folder that stood there is now" in str(error)
            else:
                moved = False
        if (
            moved
        ):  # the disk failed even when the old folder was put back: it is kept, and the message says where
            (aside,) = place.glob(".out.*.old/out")
            assert on
            assert held(aside) == {"old"}
            shutil.rmtree(aside.parent)
        elif target.exists():
            assert held(target) in ({"old"}, {"new"})
        else:
            assert not there
        assert [entry.name for entry in place.iterdir()] == ["out"] * target.exists()
        if steps.calls < n:
            break
    assert failed >= 4
    assert held(target) == {"new"}


def test_write_folder_replaces_no_file_and_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(NotADirectoryError, match="this is a file"):
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    write_whole(tmp_path / "real", "old")
    try:
        os.symlink(tmp_path / "real", tmp_path / "link", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert held(tmp_path / "real") == {"new"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
        with files.write_folder(tmp_path / "b") as folder:
            (folder / "c").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "b" / "c").stat().st_mode & 0o777 == 0o640


# ---- claims

CLAIM = """
import sys
from pathlib import Path
from blocklora.core.errors import RunError
from blocklora.core.files import claim_folder
try:
    with claim_folder(Path(sys.argv[1])):
        print("claimed", flush=True)
        sys.stdin.readline()
except RunError as error:
    print(error, flush=True)
"""


def start_claim(folder: Path) -> subprocess.Popen[str]:
    """Start a process that claims a folder, and lets it go when its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])},
    )  # fmt: skip


def test_two_processes_cannot_claim_one_folder_and_a_crash_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    first = start_claim(folder)
    assert first.stdout
    assert first.stdout.readline() == "claimed\n"
    second = start_claim(folder)
    said, _ = second.communicate("\n")
    assert "runs" in said
    assert "another process is working in this folder: wait until it has ended" in said
    with pytest.raises(RunError, match="another process is working"), files.claim_folder(folder):
        pass
    first.kill()  # as by a crash: nothing is cleaned up
    first.communicate()
    with files.claim_folder(folder) as claimed:
        (claimed / "config.json").touch()
    assert [entry.name for entry in folder.iterdir()] == ["config.json"]


def test_a_claimed_folder_that_stays_empty_is_removed_if_it_was_made(tmp_path: Path) -> None:
    with files.claim_folder(tmp_path / "new"):
        pass
    (tmp_path / "mine").mkdir()
    with pytest.raises(RuntimeError), files.claim_folder(tmp_path / "mine"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == []


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("FileSystem does not appear to support flock"),
        OSError(errno.ENOLCK, "No locks available"),  # NFS without its lock service
        OSError(errno.EOPNOTSUPP, "Operation not supported"),  # some FUSE mounts
    ],
)
def test_where_there_are_no_locks_nobody_is_kept_out(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(files.FileLock, "acquire", refuse)
    with files.claim_folder(tmp_path / "a") as outer, files.claim_folder(tmp_path / "a"):
        (outer / "x").touch()
    assert os.listdir(tmp_path / "a") == ["x"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match=r"file: this is a file, not a folder: choose another name"),
        files.claim_folder(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(RunError, match=r"run: this folder cannot be made or written"),
        files.claim_folder(tmp_path / "file" / "run"),
    ):
        pass


def test_home_is_expanded_and_the_home_of_nobody_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert files.user_path("~/a") == files.user_path(Path("~/a")) == tmp_path / "a"
    assert files.user_path("~nobody-of-that-name/a") == Path("~nobody-of-that-name/a")
    assert files.user_path("a/~") == Path("a/~")
