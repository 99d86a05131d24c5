"""What the documents say of the repository is true: links, commands, options, Python blocks, files and names."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from blocklora.cli.app import app
from blocklora.metrics import evaluate
from blocklora.report import RunMetrics, metrics_json

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "blocklora"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.md")])
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OTHERS = ("--strict", "--nproc-per-node")  # options of mypy and torchrun
OTHER_WORDS = r"\b(pictures?|twins?|arms?|trained numbers|trainable numbers|accelerator)\b"
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every blocklora command of a page: lines of code, and whole commands inside sentences."""
    lines = re.findall(r"^    (blocklora [a-z].*)", text_of(page), flags=re.MULTILINE)
    inside = re.findall(r"`(blocklora [a-z][^`]*)`", text_of(page))
    for line in (*lines, *(words for words in inside if "..." not in words)):
        yield shlex.split(line, comments=True)[1:]


def scripts_of(page: Path) -> list[str]:
    """Return the scripts of the repository that a page runs."""
    return re.findall(r"\bpython ((?:benchmarks|tools|examples)/\S+?\.py)", text_of(page))


def spans(text: str) -> list[str]:
    """Return what stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", text)


@EACH_PAGE
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@EACH_PAGE
def test_links_into_a_page_find_their_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text_of(page)):
        if "://" not in target:
            headings = re.findall(
                r"^#+ (.+)", text_of(page.parent / target if target else page), re.MULTILINE
            )
            known = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in known, f"{page.name} links to {target}#{anchor}"


@EACH_PAGE
def test_commands_can_be_typed(page: Path) -> None:
    for name, *words in commands(page):
        assert name in COMMANDS, f"blocklora {name}"
        if words and "--help" not in words:  # a bare name inside a sentence means the command itself
            COMMANDS[name].make_context(name, [*words])


@EACH_PAGE
def test_options_exist(page: Path) -> None:
    modules = [name.replace(".", "/") for name in re.findall(r"python -m (blocklora\.[\w.]+)", text_of(page))]
    scripts = [ROOT / script for script in scripts_of(page)] + [
        ROOT / "src" / f"{name}.py" for name in modules
    ]
    known = "".join(CliRunner().invoke(app, [name, "--help"]).stdout for name in COMMANDS)
    known += "".join(text_of(script) for script in scripts) + "--version"
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text_of(page))):
        assert option in known or option in OTHERS, f"{page.name} names {option}"


@EACH_PAGE
def test_python_blocks_can_be_run(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("blocklora"):
                module = import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {node.module} has no {alias.name}"


@EACH_PAGE
def test_scripts_and_files_exist(page: Path) -> None:
    for script in scripts_of(page):
        assert (ROOT / script).is_file(), f"{page.name} names {script}"
    for span in spans(text_of(page)):
        if re.fullmatch(r"(src|tests|benchmarks|tools|examples|docs)/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{page.name} names {span}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if SOURCE not in page.parents], ids=lambda page: page.name
)
def test_one_word_for_a_thing(page: Path) -> None:
    prose = re.sub(r"<!-- (\w[^>]*?) -->.*?<!-- end of \1 -->", "", text_of(page), flags=re.DOTALL)
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose)
    assert re.findall(OTHER_WORDS, prose) == []


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make (\w+)|^ +make (\w+)", text_of(page), re.MULTILINE)) <= {
            pair for name in targets for pair in ((name, ""), ("", name))
        }


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading of ARCHITECTURE.md."""
    part = text_of(ROOT / "ARCHITECTURE.md").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")][2:]


def test_the_architecture_lists_every_room_and_a_file_to_open_first() -> None:
    there = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} | {"estimator.py"}
    listed = {spans(room)[0].rstrip("/"): first for room, _, first in rows("Rooms")}
    assert set(listed) == there
    for room, first in listed.items():
        for name in spans(first):
            assert (SOURCE / room / name).is_file(), f"{room}: {name}"


def test_what_the_architecture_says_where_is() -> None:
    for what, where in rows("Where is ...?"):
        files = [SOURCE / span for span in spans(where) if re.fullmatch(r"[\w/]+/\w+\.py", span)]
        files += [files[0].parent / span for span in spans(where) if re.fullmatch(r"\w+\.py", span) and files]
        assert files, what
        code = "".join(text_of(file) for file in files)  # an unknown file raises
        for name in spans(where):
            if "/" not in name and not name.endswith(".py"):
                assert name in code, f"{what}: {name} is in none of these files"


def test_every_key_of_metrics_json_is_explained() -> None:
    known = RunMetrics(evaluate([[0.9, 0.1], [0.2, 0.8]], [0, 1], ["ant", "bee"], [0, 0]))
    part = text_of(ROOT / "docs" / "files.md").split("## metrics.json\n", 1)[1].split("\n## ", 1)[0]
    named = {
        span for line in part.splitlines() if line.startswith("| ") for span in spans(line.split(" | ")[0])
    }
    assert set(metrics_json(known)) - {"format"} <= named
