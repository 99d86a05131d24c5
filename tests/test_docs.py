"""What the documents say of the repository is true: their links resolve, and their commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blocklora.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_option_that_the_pages_name_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "docs" / "datasets.md"]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    commands = (
        "fit",
        "evaluate",
        "predict",
        "demo",
        "datasets",
        "base-to-new",
        "cross-dataset",
        "domain-generalization",
        "plan",
        "bench",
        "tables",
    )
    helps = "".join(CliRunner().invoke(app, [name, "--help"]).stdout for name in commands)
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--help"}
    assert options
    for option in options:
        assert option in helps
    for command in re.findall(r"^    blocklora ([\w-]+)", text, flags=re.MULTILINE):
        assert command in CliRunner().invoke(app, ["--help"]).stdout


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake (\w+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named & targets
