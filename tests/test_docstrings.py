"""Public functions say the shapes of the tensors and arrays that they take and return."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import blocklora

SOURCE = Path(blocklora.__file__).parent
FILES = [path for path in sorted(SOURCE.rglob("*.py")) if "consumers" not in path.parts]
TENSORS = r"\b(Tensor|NDArray|_Floats)\b"
BY_NAME = r"(Mapping|dict)\[str, [^\]]*(Tensor|NDArray(\[\w+\])?|Parameter)\]"
DIM = r"(\.\.\.|\d+|[A-Za-z]|[a-z]+_[a-z]+|side|rows)( [-+*/] [\w ]+)*"
SHAPE = rf"\({DIM}(, {DIM})*,?\)"  # such as (M, N), (..., d_in), (M + V,)
SAID = rf"{SHAPE}|[Aa]ny shape|scalar|[Ss]ee ``|arguments of ``"


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield functions of a module, and methods of its public classes, whose names have no underscore in front."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for function in inner:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                yield function


def with_tensors(function: ast.FunctionDef) -> bool:
    """Return whether a function takes or returns tensors or arrays; those in a mapping have their own names."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    written = [ast.unparse(given.annotation) for given in arguments if given.annotation]
    written += [ast.unparse(function.returns)] if function.returns else []
    return any(re.search(TENSORS, re.sub(BY_NAME, "", text)) for text in written if "Callable" not in text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_shapes_are_said(path: Path) -> None:
    for function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        if with_tensors(function):
            said = ast.get_docstring(function) or ""
            assert re.search(SAID, said), f"{path.name}: {function.name} says no shape"


def test_the_check_can_fail() -> None:
    (bad,) = public_functions(ast.parse('def f(x: Tensor) -> Tensor:\n    """Return x (twice)."""'))
    assert with_tensors(bad)
    assert not re.search(SAID, ast.get_docstring(bad) or "")
