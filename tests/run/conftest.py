"""A finished run that the tests of this room read; they do not write into it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import settings

from blocklora.run.fit import fit_run


@pytest.fixture(scope="session")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of block-lora on the photos."""
    out = tmp_path_factory.mktemp("runs") / "a"
    assert fit_run(str(photos), out, **settings(clip_folder))[0] == out
    return out
