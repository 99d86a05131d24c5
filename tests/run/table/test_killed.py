"""A process that is killed at any point loses nothing: afterwards the table is that of one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blocklora.run.load import load_run
from blocklora.run.predict import Asked
from blocklora.run.table.fill import fill_table
from blocklora.run.table.work import TableOrder, open_work

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


def rows_by_name(path: Path) -> dict[str, dict[str, object]]:
    """Return the rows of a table by the names of the images, which are all different."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {Path(row["image"]).name: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_killed_at_every_point(run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("alone", "killed"):
        for folder in photos.iterdir():
            for file in folder.iterdir():
                (tmp_path / name / folder.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / name / folder.name / f"{folder.name}-{file.name}")
        (tmp_path / name / "broken.png").write_text("no image", encoding="utf-8")
    order = TableOrder(
        run,
        [tmp_path / "alone"],
        tmp_path / "alone.jsonl",
        asked=Asked(top_k=2),
        features=tmp_path / "alone.npy",
    )
    with open_work(order) as work:
        fill_table(work, load_run(run, device="cpu"))
    out, features, sorted_to = tmp_path / "killed.jsonl", tmp_path / "killed.npy", tmp_path / "sorted"
    script = Path(__file__).with_name("killed_table.py")
    done = subprocess.run(
        [sys.executable, script, run, tmp_path / "killed", out, features, sorted_to],
        capture_output=True, text=True, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ends = json.loads(done.stdout)
    assert set(ends[:-1]) == {-signal.SIGKILL}, done.stderr
    assert ends[-1] == 0, done.stderr
    assert len(ends) == 18
    left, killed = rows_by_name(tmp_path / "alone.jsonl"), rows_by_name(out)
    assert left.keys() == killed.keys()
    assert len(killed) == 37
    features_of = {
        name: dict(zip(rows, np.load(tmp_path / f"{name}.npy"), strict=True))
        for name, rows in (("alone", left), ("killed", killed))
    }
    for name, row in killed.items():
        moved_to = row.pop("moved_to")
        assert row["label"] == left[name]["label"]
        assert row["probability"] == pytest.approx(left[name]["probability"], abs=1e-6)
        np.testing.assert_allclose(features_of["killed"][name], features_of["alone"][name], atol=1e-6)
        assert (moved_to is None) == (name == "broken.png")
        if moved_to is not None:
            assert Path(str(moved_to)).parent == sorted_to / str(row["label"])
            assert (
                Path(str(moved_to)).read_bytes()
                == (tmp_path / "alone" / name.rsplit("-", 1)[0] / name).read_bytes()
            )
    assert [path.name for path in (tmp_path / "killed").rglob("*") if path.is_file()] == ["broken.png"]
    assert sum(path.is_file() for path in sorted_to.rglob("*")) == 36
    assert sorted(path.name for path in tmp_path.glob("killed*")) == ["killed", "killed.jsonl", "killed.npy"]
