"""``blocklora compare`` as a person drives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import call, start
from written_runs import TestImage, test_images, write_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return lambda *arguments: call(capsys, monkeypatch, "compare", *arguments)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    images = [*test_images(29), TestImage("[bold]owl[/bold]/\u202e.png", 2)]
    wrong = {"a": [], "b": range(8), "c": range(7, 30)}
    return [
        write_run(tmp_path / name, images, places, method="tip-adapter-f") for name, places in wrong.items()
    ]


def test_two_runs_in_80_columns(runs: list[Path]) -> None:
    done = start("compare", "a", "b", cwd=runs[0].parent, COLUMNS="80", PYTHONIOENCODING="utf-8")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "2 runs on the same 30 test images of pets.\n",
        "  A  a: tip-adapter-f on tiny, 4 images a class, seed 1\n",
        "│ A │   100.0% │  88.6–100.0% │ 20.0% │    0.223 │ 1 min 12 s │      1,234 │\n",
        "A is better than B by 26.7 points.\n",
        "p = 0.0078.",
        "8 images of 30 are right in some runs and wrong in others:\n",
        "  cat/0.png (cat): A right; B says dog\n",
    ):
        assert words in text, text


def test_three_runs_in_80_columns(runs: list[Path]) -> None:
    done = start("compare", "a", "b", "c", cwd=runs[0].parent, COLUMNS="80", PYTHONIOENCODING="utf-8")
    text = done.stdout.decode()
    tables = [line for line in text.splitlines() if line.startswith(("│", "┃", "┏"))]
    assert max(map(len, tables)) <= 80
    assert "│ A, B │  +26.7 │  +9.8 to +44.4 │     8 │      0 │ 0.0078 │   0.016 │      A │" in text
    assert "  cat/0.png (cat): A, C right; B says dog\n" in text
    assert "  ... and 20 more; --json has all, --out shows them.\n" in text


def test_json_is_one_document(runs: list[Path], command: Command) -> None:
    code, out, error = command(*runs[:2], "--json")
    facts = json.loads(out)
    assert (code, error, out) == (0, "", json.dumps(facts, indent=2) + "\n")
    assert facts["pairs"][0]["only_first"] == len(facts["disputed"]) == 8


def test_a_page_is_written_beside_either(runs: list[Path], command: Command, tmp_path: Path) -> None:
    assert f"page: {tmp_path / 'c.html'}\n" in command(*runs, "--out", tmp_path / "c.html")[1]
    assert "3 runs compared" in (tmp_path / "c.html").read_text(encoding="utf-8")
    json.loads(command(*runs, "--json", "--out", tmp_path / "d.html")[1])
    assert (tmp_path / "d.html").is_file()


def test_what_was_left_out_is_a_warning_and_names_are_no_markup(
    runs: list[Path], command: Command, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "[red]", [TestImage("[bold]owl[/bold]/\u202e.png", 2)], wrong=[0])
    out = command(runs[0], other)[1]
    assert "warning: Compared on the 1 test image that all runs have, no more: A has 30, B has 1." in out
    assert "[bold]owl[/bold]/" in out
    assert "[red]: tip-adapter-f" not in out
    assert "/[red]: block-lora" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a"], "1 run to compare; expected two RUN folders or more"),
        (["a", "a"], "this run is given twice"),
        (["a", "nothing"], "nothing: no such folder; expected a RUN folder"),
        (["a", "."], "is no finished run, as it has no metrics.json"),
        (
            ["a", "b", "--out", "a/metrics.json"],
            "expected the name of a page to write, such as comparison.html",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    arguments: list[str], words: str, runs: list[Path], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs[0].parent)
    before = (runs[0] / "metrics.json").read_bytes()
    code, out, error = command(*arguments)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert words in error
    assert (runs[0] / "metrics.json").read_bytes() == before
