"""The shape of the house: imports go inwards only, everything stays small, and importing changes nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

import blocklora

SOURCE = Path(blocklora.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
ORDER = [
    {"core"},
    {"adapter", "data", "metrics"},
    {"clip"},
    {"training"},
    {"classifier"},
    {"findings", "methods"},
    {"estimator", "report"},
    {"run"},
    {"bench", "explore", "export", "serve"},
    {"__init__"},  # it names the homes of the public names, and imports them on first use
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
ROOMS = sorted(path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists())
MAY_IMPORT_LATE = {
    "bench/executors/on_ray.py": "Ray is an optional extra",
    "bench/plots.py": "matplotlib is an optional extra",
    "core/on_ray.py": "Ray is an optional extra",
    "core/device.py": "the module resource does not exist on Windows",
    "data/bundled.py": "scikit-learn's data sets take a second",
    "data/hub.py": "pyarrow is an optional extra",
    "data/tables.py": "pyarrow is an optional extra",
    "export/run.py": "onnx is an optional extra",
    "serve/server.py": "of torch and ONNX Runtime only the one that computes is imported",
    "run/table/formats.py": "pyarrow is an optional extra",
    "run/table/places.py": "pyarrow is an optional extra",
}
DRAWS = {"default_rng", "SeedSequence"}
MOST_FILE_LINES, MOST_FUNCTION_LINES, MEDIAN_FUNCTION_LINES, MOST_LOOSE_DICTS = 300, 60, 10, 40
ONE_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: inside(path))


def inside(path: Path) -> str:
    """Return a file's name below the package."""
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    """Return the room of a file: the first part of its name."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    """Parse a file, once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported from blocklora, as blocklora.room.module.name, type-checking blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("blocklora."))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name of every function and method of a file, and how many lines it has."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{inside(path)}: {node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_the_root_holds_rooms_and_four_files() -> None:
    assert {path.name for path in SOURCE.iterdir() if path.is_file()} == {
        "__init__.py",
        "__main__.py",
        "estimator.py",
        "py.typed",
    }
    assert set(ROOMS) | {"__init__", "__main__", "estimator"} == set(LEVEL)


def test_the_architecture_shows_the_order() -> None:
    page = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = next(line for line in page.splitlines() if line.startswith("    core < ")).split(" < ")
    inner = [rooms for rooms in ORDER if not rooms & {"__init__", "__main__"}]
    assert [set(rooms.strip().split(", ")) for rooms in shown] == inner


@ONE_FILE
def test_imports_go_inwards(path: Path) -> None:
    room = room_of(path)
    for name in imported(parsed(path)):
        other = name.split(".")[1] if name.split(".")[1] in LEVEL else "__init__"  # from blocklora import x
        assert other == room or LEVEL[other] < LEVEL[room], f"{inside(path)} imports {name}"


@ONE_FILE
def test_nothing_private_crosses_a_door(path: Path) -> None:
    for name in imported(parsed(path)):
        _, other, *rest = name.split(".")
        assert other == room_of(path) or not any(part.startswith("_") for part in rest), (
            f"{inside(path)} imports {name}"
        )


def test_late_imports_have_a_reason() -> None:
    late = {
        inside(path)
        for path in FILES
        for function in ast.walk(parsed(path))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and room_of(path) != "cli"  # --help answers at once
    }
    assert late == set(MAY_IMPORT_LATE)


def test_no_module_imports_itself_through_others() -> None:
    modules = {f"blocklora.{inside(path).removesuffix('.py').replace('/', '.')}": path for path in FILES}
    graph = {}
    for name, path in modules.items():
        known = set()
        for target in imported(parsed(path)):
            ways = (target, f"{target}.__init__", target.rpartition(".")[0])
            known.add(next((way for way in ways if way in modules), f"{ways[2]}.__init__"))
        graph[name] = known & set(modules)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_files_are_short() -> None:
    lines = {inside(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > MOST_FILE_LINES} == {}


def test_functions_are_short() -> None:
    lines = [pair for path in FILES for pair in functions(path)]
    assert {name: n for name, n in lines if n > MOST_FUNCTION_LINES} == {}
    assert median(n for _, n in lines) <= MEDIAN_FUNCTION_LINES


def test_few_dictionaries_hold_just_anything() -> None:
    places = Counter(
        {inside(path): path.read_text(encoding="utf-8").count("dict[str, Any]") for path in FILES}
    )
    assert places.total() <= MOST_LOOSE_DICTS, [row for row in places.most_common() if row[1]]


def test_no_two_public_classes_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(inside(path))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_every_random_stream_gets_its_name_in_one_file() -> None:
    draws = {
        inside(path)
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and node.attr in DRAWS
    }
    assert draws == {"core/seeds.py"}


def test_public_names_are_the_promised_ones() -> None:
    assert blocklora.__all__ == [
        "BlockLoraConfig",
        "BlockLoraModel",
        "BlockloraError",
        "ConfigError",
        "DataError",
        "FewShotClassifier",
        "ImageError",
        "ModelError",
        "RunError",
        "fold_to_lora",
        "generalization_bound",
        "param_groups",
        "unfold_lora",
    ]
    for name in blocklora.__all__:
        assert getattr(blocklora, name).__name__ == name
        assert name in dir(blocklora)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        blocklora.nothing  # noqa: B018


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_exports_is_sorted_and_there(room: str) -> None:
    """Constants come first, then classes, then functions: the order that ruff keeps."""
    module = import_module(f"blocklora.{room}")
    names = list(getattr(module, "__all__", ()))
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in names:
        assert hasattr(module, name), f"{room} has no {name}"
        assert not name.startswith("_")


def test_errors_have_a_public_module_of_their_own() -> None:
    public = import_module("blocklora.errors")
    assert public is blocklora.errors is import_module("blocklora.core.errors")
    never = {"SealedTestError", "LostRankError", "RankStoppedError"}  # a bug's, and between processes
    caught = set(public.__all__) - never
    assert caught <= set(blocklora.__all__)
    assert all(getattr(blocklora, name) is getattr(public, name) for name in caught)


@pytest.mark.parametrize(
    "line",
    ["import blocklora.errors", "from blocklora.errors import DataError", "from blocklora import errors"],
)
def test_errors_are_imported_first_and_without_torch(line: str) -> None:
    code = f"import sys; {line}; print(sys.modules['blocklora.errors'].__name__, 'torch' in sys.modules)"
    assert run_python(code) == "blocklora.core.errors False"


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
import numpy, torch, transformers, peft, sklearn, scipy.stats, scipy.optimize, jinja2, PIL.Image
import huggingface_hub, typer, rich.progress
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection
def state():
    return (logging.getLogger().level, list(warnings.filters), dict(os.environ), random.getstate(),
            torch.get_default_dtype(), torch.initial_seed(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), PIL.Image.MAX_IMAGE_PIXELS,
            transformers.utils.logging.get_verbosity(), torch.get_num_threads())
before = state()
import blocklora, blocklora.estimator, blocklora.run.fit, blocklora.run.demo, blocklora.run.predict
import blocklora.bench.run, blocklora.export.run, blocklora.cli.app, blocklora.cli.console
print(before == state())
"""
    assert run_python(code) == "True"
