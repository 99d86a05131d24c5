"""A run and its exports, each made once; tests only read them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from runs import settings

from blocklora import FewShotClassifier
from blocklora.export import run as run_module
from blocklora.export.run import export_run
from blocklora.run.fit import fit_run


@pytest.fixture(scope="session")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of block-lora on the photos."""
    out = tmp_path_factory.mktemp("runs") / "block-lora"
    fit_run(str(photos), out, **settings(clip_folder))
    return out


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The function that exports the run in a format and precision, once."""

    @cache
    def export(format_: str, precision: str = "fp32") -> Path:
        out = tmp_path_factory.mktemp("exports") / f"{format_}-{precision}"
        export_run(run, out, format_, precision=precision)  # type: ignore[arg-type]
        return out

    return export


@pytest.fixture(scope="session")
def saved(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The function that fits a method in a second and saves it, once."""

    @cache
    def save(method: str, **settings: object) -> Path:
        files = sorted(photos.glob("*/[0-3].png"))
        classifier = FewShotClassifier(model=str(clip_folder), method=method, device="cpu", **settings)
        classifier.fit(files, [file.parent.name for file in files])
        classifier.save(out := tmp_path_factory.mktemp("saved") / method)
        return out

    return save


@pytest.fixture(scope="session")
def consumer() -> Callable[[str], ModuleType]:
    """The function that loads one of the scripts that exported folders hold."""

    @cache
    def load(name: str) -> ModuleType:
        place = Path(run_module.__file__).parent / "consumers" / f"{name}.py"
        spec = spec_from_file_location(f"consumer_{name}", place)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
