"""A finished run to serve."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import settings

from blocklora.run.fit import fit_run


@pytest.fixture(scope="session")
def served_run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN folder of coloured shapes; do not write into it."""
    out = tmp_path_factory.mktemp("served") / "shapes"
    fit_run(str(photos), out, **settings(clip_folder, method="linear-probe"))
    return out
