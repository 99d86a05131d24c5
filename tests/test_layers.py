"""The shape of the house: imports go inwards only, and importing changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blocklora

SOURCE = Path(blocklora.__file__).parent
ORDER = [
    {"__init__"},
    {"core"},
    {"adapter", "data", "metrics"},
    {"clip"},
    {"training"},
    {"classifier"},
    {"methods"},
    {"estimator", "report"},
    {"run"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MAY_IMPORT_LATE = {
    "bench/plots.py",  # matplotlib is an optional extra
    "data/hub.py",  # pyarrow is an optional extra
    "data/bundled.py",  # scikit-learn takes a second
    "data/tables.py",  # pyarrow is an optional extra
    "core/device.py",  # the module does not exist on Windows
}


def rooms_imported(tree: ast.AST) -> set[str]:
    """Return the rooms of blocklora that a module imports anywhere, type-checking blocks included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("blocklora.")}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_inwards(path: Path) -> None:
    inside = path.relative_to(SOURCE)
    room = inside.parts[0].removesuffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for other in rooms_imported(tree) - {room}:
        if room != "__init__":  # it only names the homes of the public names
            assert LEVEL[other] < LEVEL[room], f"{inside} imports from {other}"
    if room != "cli" and inside.as_posix() not in MAY_IMPORT_LATE:  # cli: so that --help answers at once
        late = [
            node.lineno
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not late, f"{inside} imports inside a function, lines {late}"


def test_public_names_are_the_promised_ones() -> None:
    promised = {"BlockLoraConfig", "FewShotClassifier", "fold_to_lora", "generalization_bound"}
    assert promised <= set(blocklora.__all__)
    assert blocklora.__all__ == sorted(blocklora.__all__)
    for name in blocklora.__all__:
        assert getattr(blocklora, name).__name__ == name
        assert name in dir(blocklora)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        blocklora.nothing  # noqa: B018


def run_python(code: str) -> str:
    """Run a snippet in a fresh process and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_help_does_not_load_torch() -> None:
    code = "import sys, blocklora.cli.app; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_importing_changes_nothing() -> None:
    code = """
import logging, os, random, warnings
import numpy, torch, transformers, peft, accelerate, sklearn, scipy.stats, scipy.optimize, jinja2, PIL.Image
import huggingface_hub, typer, rich.progress
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection
def state():
    return (logging.getLogger().level, list(warnings.filters), dict(os.environ), random.getstate(),
            torch.get_default_dtype(), torch.initial_seed(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), PIL.Image.MAX_IMAGE_PIXELS,
            transformers.utils.logging.get_verbosity(), torch.get_num_threads())
before = state()
import blocklora, blocklora.cli.app, blocklora.run.fit, blocklora.run.demo, blocklora.run.predict, blocklora.cli.console
print(before == state())
"""
    assert run_python(code) == "True"
