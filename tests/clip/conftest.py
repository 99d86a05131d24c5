"""Very small random models of every family but CLIP's own, in the hub's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from relatives import WRITERS, write_relative


@pytest.fixture(scope="session")
def make_relative() -> Callable[[Path, str], Path]:
    """The function that writes a random model of a named family."""
    return write_relative


@pytest.fixture(scope="session", params=sorted(WRITERS))
def relative(
    request: pytest.FixtureRequest,
    make_relative: Callable[[Path, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A random model of every family but CLIP's own, in turn; do not write into it."""
    return make_relative(tmp_path_factory.mktemp("models") / request.param, request.param)
