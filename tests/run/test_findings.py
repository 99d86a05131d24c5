"""What a run says about its own images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import read, settings

from blocklora.findings.finding import Finding
from blocklora.report import RunMetrics
from blocklora.run import findings
from blocklora.run.fit import fit_run

ALL: dict[str, Any] = {"shots": None, "method": "gda"}


def write_images(folder: Path) -> Path:
    """Write blocky noise under two labels in three parts, with faults."""
    draw = np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 3), ("test", 4)):
        for label in ("a", "b"):
            (folder / part / label).mkdir(parents=True)
            for number in range(n):
                noise = Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                noise.resize((48, 48), Image.Resampling.NEAREST).save(folder / part / label / f"{number}.png")
    for old, new in (
        ("train/a/0.png", "test/a/copy.png"),
        ("train/a/1.png", "train/b/twice.png"),
        ("test/b/1.png", "test/b/again.png"),
    ):
        (folder / new).write_bytes((folder / old).read_bytes())
    Image.open(folder / "train/b/2.png").save(folder / "val/b/anew.jpg", quality=95)
    Image.open(folder / "train/b/3.png").save(folder / "test/b/anew.bmp")
    Image.new("RGB", (48, 48), "white").save(folder / "train/b/white.png")
    (folder / "train" / "a" / "broken.png").write_bytes(b"\x89PNG broken")
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with faults."""
    return write_images(tmp_path_factory.mktemp("images") / "faulty")


@pytest.fixture(scope="module")
def frozen(
    faulty: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunMetrics]:
    """A run of a method on frozen features."""
    out = tmp_path_factory.mktemp("runs") / "gda"
    return fit_run(str(faulty), out, **settings(clip_folder, **ALL))


def of_kind(found: tuple[Finding, ...], kind: str) -> set[frozenset[str]]:
    return {frozenset(one.images) for one in found if one.kind == kind}


def sets(*groups: tuple[str, ...]) -> set[frozenset[str]]:
    return set(map(frozenset, groups))


def test_copies_leaks_conflicts_and_blank_images_are_found(frozen: tuple[Path, RunMetrics]) -> None:
    found = frozen[1].findings
    twice, copy, anew = (
        ("train/a/1.png", "train/b/twice.png"),
        ("train/a/0.png", "test/a/copy.png"),
        "train/b/3.png",
    )
    assert of_kind(found, "exact-duplicate") >= sets(twice, copy, (anew, "test/b/anew.bmp"))
    assert of_kind(found, "conflict") == sets(twice)
    assert of_kind(found, "leak") == sets(
        copy, (anew, "test/b/anew.bmp"), ("train/b/2.png", "val/b/anew.jpg")
    )
    assert of_kind(found, "near-duplicate") == sets(("train/b/2.png", "val/b/anew.jpg"))
    assert of_kind(found, "blank") == sets(("train/b/white.png",))
    named = {kind for one in found for kind in [one.kind] if "test" in one.parts}
    assert named <= {"exact-duplicate", "near-duplicate", "leak", "conflict"}


def test_they_stand_in_the_report_and_in_metrics_json(frozen: tuple[Path, RunMetrics]) -> None:
    out, metrics = frozen
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "One image under two labels: 1</summary>" in page
    assert [one["kind"] for one in read(out / "metrics.json")["findings"]] == [
        one.kind for one in metrics.findings
    ]
    assert "broken.png" in page


def test_a_method_that_trains_the_tower_finds_the_same(
    frozen: tuple[Path, RunMetrics], faulty: Path, clip_folder: Path, tmp_path: Path
) -> None:
    given = settings(clip_folder, method="block-lora", shots=None)
    found = fit_run(str(faulty), tmp_path / "run", **given)[1].findings
    assert [(one.kind, one.images) for one in found] == [(one.kind, one.images) for one in frozen[1].findings]
    np.testing.assert_allclose(
        [one.score for one in found], [one.score for one in frozen[1].findings], atol=1e-4
    )


def test_test_images_change_nothing_that_is_said_of_the_others(
    frozen: tuple[Path, RunMetrics], clip_folder: Path, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "other")
    for path in sorted((folder / "test").rglob("*.*")):
        if path.name not in ("0.png", "1.png"):
            path.unlink()
    given = settings(clip_folder, **ALL)
    found = fit_run(str(folder), tmp_path / "run", **given)[1].findings
    assert [one for one in found if "test" not in one.parts] == [
        one for one in frozen[1].findings if "test" not in one.parts
    ]
    assert not [one for one in found if one.kind == "leak" and "test" in one.parts]


def test_with_very_many_images_the_report_says_that_it_does_not_look(
    faulty: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "MOST", 10)
    given = settings(clip_folder, **ALL)
    metrics = fit_run(str(faulty), tmp_path / "run", **given)[1]
    assert metrics.findings == ()
    assert any(
        "more than 10, the report does not check them: blocklora check does" in note for note in metrics.notes
    )
