"""Files and folders that are either whole or not there, and folders that one process works in.

Whatever is written goes under a temporary name beside its place, is flushed to the disk, and is then renamed. Network
mounts often refuse to flush a folder or to set permissions: such a refusal is no failure, a full or broken disk is.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from blocklora.core.errors import RunError

__all__ = [
    "claim_folder",
    "replace_in_folder",
    "user_path",
    "write_bytes",
    "write_folder",
    "write_json",
    "write_stream",
    "write_text",
]

LOCK = ".lock"
_LOST = {
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
}  # a flush that fails so has lost what was written
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # of network mounts


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` and ``~name`` as their homes; the home of nobody stays as it is."""
    return Path(os.path.expanduser(os.fspath(path)))


@contextmanager
def write_stream(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which becomes ``path`` when the block ends without an error, durably and whole.

    Args:
        path: The file to write. Its folder must exist; an older file of that name is replaced.

    Raises:
        OSError: The disk is full, or the folder cannot be written. ``path`` is then as it was, and no
            temporary file remains.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            _flush(stream.fileno())
        _allow(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file it was
        raise
    _flush_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, the whole file, to ``path``, as ``write_stream`` does."""
    with write_stream(path) as stream:
        stream.write(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` as UTF-8, as ``write_bytes`` does."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, as ``write_bytes`` does. NaN and infinities are refused.

    A file's name that is no UTF-8 is written with JSON's escapes, and read back as it was.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends without an error.

    A folder that stood at ``path`` is replaced, and is there until the new one is whole and flushed to the disk. After
    an error it is as it was and nothing else remains. Where ``path`` is a link, the folder it leads to is replaced.

    Raises:
        OSError: The disk is full, ``path`` is a file, or its parent cannot be written. Where the disk fails so that
            the old folder cannot be put back either, the message says where it is.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is a file, not a folder", str(path))
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".tmp"))
    try:
        yield temporary
        _finish(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(path.parent)


@contextmanager
def claim_folder(path: Path) -> Iterator[Path]:
    """Make a folder if need be, and keep every other process out of it until the block ends.

    The claim is a lock on the file ``.lock`` in the folder. The system takes a lock back from a process that ends,
    however it ends, so that nobody is kept out by a crash. The file is removed at the end, and with it the folder, if
    it was made here and is empty. On a file system without locks nobody is kept out.

    Args:
        path: The folder to work in.

    Raises:
        RunError: Another process works in the folder, or it is a file, or cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: this is a file, not a folder: choose another name for the folder.")
    made = not path.exists()
    lock = FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(NotImplementedError):  # the file system knows no locks
            lock.acquire()
    except Timeout:
        raise RunError(
            f"{path}: another process is working in this folder: wait until it has ended, or choose another folder."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise RunError(
                f"{path}: this folder cannot be made or written ({error.strerror}): choose another folder."
            ) from error
    try:
        yield path
    finally:
        with suppress(OSError):
            (path / LOCK).unlink()  # before it is released, so that nobody else holds it
        lock.release()
        with suppress(OSError):
            (path / LOCK).unlink(missing_ok=True)  # Windows removes no open file
            if made:
                path.rmdir()  # refuses a folder that holds something


def _finish(folder: Path) -> None:
    """Give a finished folder usual permissions, and flush all of it to the disk."""
    mask = _umask()
    inside = [folder, *folder.rglob("*")]
    folders = [path for path in inside if path.is_dir()]
    files = [path for path in inside if not path.is_dir()]
    with ThreadPoolExecutor(8) as pool:  # a disk flushes many files at once nearly as fast as one
        list(pool.map(_flush_file, files))
    for path in files:
        _allow(path, 0o666 & ~mask)
    for path in folders:
        _allow(path, 0o777 & ~mask)
        _flush_folder(path)


def _exchange(new: Path, path: Path) -> None:
    """Put a folder in the place of another one, which is removed, or put back where that fails."""
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix=".old"))
    old = aside / path.name
    try:
        os.replace(path, old)
        os.replace(new, path)
    except BaseException as error:
        if old.exists():
            try:
                os.replace(old, path)
            except OSError:
                raise OSError(
                    getattr(error, "errno", None),
                    f"{error}; the folder that stood there is now {old}",
                    str(path),
                ) from error
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush_file(path: Path) -> None:
    """Flush one file to the disk, where it may be opened for writing."""
    with suppress(PermissionError), open(path, "rb+") as stream:
        _flush(stream.fileno())


def _flush_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can: after a power cut the names are there."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _flush(handle: int) -> None:
    """Flush an open file to the disk; a file system that cannot do it is no failure, a full or broken one is."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in _LOST:
            raise


def _allow(path: Path, mode: int) -> None:
    """Set permissions, where the file system has any."""
    with suppress(OSError):
        path.chmod(mode)


def _prefix(path: Path) -> str:
    """Return how temporary names begin: short enough that a long name does not become too long."""
    return f".{path.name[:50]}."


@contextmanager
def replace_in_folder(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield an empty folder whose files and folders take the place of those of the same names in ``folder`` at the end.

    What stood in ``folder`` under one of the names and was not made anew is gone then; all else there is left alone.
    After an error everything is as it was.

    Args:
        folder: Where to; it is made if need be.
        names: Every name that may be made, in the order in which they are put in their place.

    Raises:
        OSError: Something cannot be written or renamed.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder, prefix=".new.", suffix=".tmp"))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        old.mkdir()
        yield new
        _finish(new)
        _swap(folder, new, old, names)
        _flush_folder(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _swap(folder: Path, new: Path, old: Path, names: Sequence[str]) -> None:
    """Rename what is there to ``old`` and what is new to its place; undo everything where a rename fails."""
    done: list[tuple[Path, Path]] = []

    def rename(source: Path, target: Path) -> None:
        os.replace(source, target)
        done.append((source, target))

    try:
        for name in names:
            if (folder / name).exists():
                rename(folder / name, old / name)
        for name in names:
            if (new / name).exists():
                rename(new / name, folder / name)
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _umask() -> int:
    """Return the process's umask; reading it means setting it twice."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
