"""How Sphinx builds the site: `make docs` writes it to docs/_build/html, without network and without warnings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from blocklora import __version__

HERE = Path(__file__).parent

project = "blocklora"
author = "The blocklora authors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

highlight_language = "bash"  # of indented lines

html_theme = "furo"
html_title = "blocklora"
html_static_path: list[str] = []
html_show_copyright = False
html_copy_source = False


def _write_command_line(_app: object) -> None:
    """Write the page of all commands and options, from the commands themselves."""
    command = [sys.executable, "-m", "typer", "blocklora.cli.app", "utils", "docs", "--name", "blocklora"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    text = text.replace("&#x27;", "'").replace("# `blocklora`\n", "# Command line\n", 1)
    (HERE / "_generated").mkdir(exist_ok=True)
    (HERE / "_generated" / "command-line.md").write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Tell Sphinx what to do first."""
    app.connect("builder-inited", _write_command_line)  # type: ignore[attr-defined]
