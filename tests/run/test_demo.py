"""The demonstration: it goes on where it was, and touches nothing that it did not write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import call

from blocklora.cli import demo as command
from blocklora.core.errors import RunError
from blocklora.run import demo


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SETTINGS", {**demo.SETTINGS, "iterations": 1})
    monkeypatch.setattr(demo, "_SEEDS", (1, 2))


def test_finished_seeds_are_used_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    code, text, err = call(capsys, monkeypatch, "demo", "--out", out, "--json")
    result = json.loads(text)
    assert code == 0
    assert [row["seed"] for row in result["runs"]] == [1, 2]
    assert "seed 1 of 2: training" in err
    assert "seed 2 of 2: testing" in err
    assert (out / "seed1" / "report.html").is_file()
    assert result["mean"] == pytest.approx(sum(row["accuracy"] for row in result["runs"]) / 2)
    (out / "seed1" / "mine.txt").write_text("keep me", encoding="utf-8")
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    code, text, err = call(capsys, monkeypatch, "demo", "--out", out)
    assert (code, "training" in err) == (0, False)
    assert result["verdict"] in " ".join(text.split())
    assert str(out / "seed1" / "report.html") in text.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize(
    "files", [{"config.json": "{}"}, {"notes.txt": "x"}, {"config.json": "[", "metrics.json": "{}"}]
)
def test_what_others_wrote_stays(files: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "seed1"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="seed1"):
        demo.run_demo(tmp_path, "digits")
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("system", "path", "shown"),
    [
        ("linux", "a b/report.html", "xdg-open 'a b/report.html'"),
        ("darwin", "r/report.html", "open r/report.html"),
        ("win32", r"r\report.html", r"start r\report.html"),
        ("win32", r"a b\report.html", r'start "a b\report.html"'),
    ],
)
def test_how_a_report_is_opened(system: str, path: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(command.shutil, "which", lambda name: f"/bin/{name}")
    assert command._how_to_open(path) == shown
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    assert (command._how_to_open(path) is None) == (system != "win32")


def test_a_verdict_needs_intervals_that_are_apart() -> None:
    def row(before: float, after: float) -> demo.SeedResult:
        around = [(value - 0.1, value + 0.1) for value in (before, after)]
        return demo.SeedResult(1, before, around[0], after, around[1], 1.0, "runs/demo/seed1")

    assert demo._verdict([row(0.2, 0.8), row(0.3, 0.7)]).endswith("the 95% intervals are apart.")
    assert demo._verdict([row(0.2, 0.8), row(0.3, 0.45)]).endswith(
        "the 95% intervals overlap: no gain is shown."
    )
