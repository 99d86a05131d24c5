"""Blocks of images: each has one part, whole, however often it is done; the parts together are the table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from command import call

from blocklora.core.errors import ConfigError, DataError, RunError
from blocklora.run.load import load_run
from blocklora.run.predict import Asked
from blocklora.run.table.blocks import BlockOrder, do_block, open_blocks
from blocklora.run.table.fill import fill_table
from blocklora.run.table.work import TableOrder, open_work


def order_of(run: Path, photos: Path, out: Path) -> BlockOrder:
    return BlockOrder(run, [str(photos)], out, asked=Asked(top_k=2), block=10)


def table(run: Path, photos: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an ordinary table by image."""
    with open_work(TableOrder(run, [photos], out, asked=Asked(top_k=2))) as work:
        fill_table(work, load_run(run, device="cpu"))
    return {row["image"]: row for row in pyarrow.parquet.read_table(out).to_pylist()}


def same(found: list[dict[str, Any]], expected: dict[str, dict[str, Any]]) -> bool:
    """Return whether rows are those of a table, each once, probabilities to rounding."""
    assert len(found) == len(expected)
    for row in found:
        other = expected.pop(row["image"])
        assert row == {name: pytest.approx(value, abs=1e-6) for name, value in other.items()}
    return not expected


def test_the_parts_are_the_table(run: Path, photos: Path, tmp_path: Path) -> None:
    order, loaded = order_of(run, photos, tmp_path / "out"), load_run(run, device="cpu")
    with open_blocks(order) as (n_images, missing):
        assert (n_images, missing) == (36, [0, 1, 2, 3])
        assert [do_block(order, loaded, place) for place in (1, 1, 3)] == [10, 10, 6]
    with open_blocks(order) as (n_images, missing):
        assert missing == [0, 2]
        before = order.part(1).stat().st_mtime_ns
        for place in missing:
            do_block(order, loaded, place)
        assert order.part(1).stat().st_mtime_ns == before
    with open_blocks(order) as (_, missing):
        assert missing == []
    assert sorted(path.name for path in order.out.iterdir()) == [
        "images.jsonl", *(f"part-{n:06}.parquet" for n in range(4)), "settings.json",
    ]  # fmt: skip
    parts = [pyarrow.parquet.read_table(order.part(n)).to_pylist() for n in range(4)]
    assert same([row for part in parts for row in part], table(run, photos, tmp_path / "x.parquet"))


def test_other_folders_and_settings_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    order = order_of(run, photos, tmp_path / "out")
    with open_blocks(order), pytest.raises(RunError, match="another process"), open_blocks(order):
        pass
    for changed, text in [
        (replace(order, asked=Asked(top_k=3)), "begun with another value of top_k"),
        (replace(order, inputs=["x"]), "begun with another value of images"),
    ]:
        with pytest.raises(RunError, match=text), open_blocks(changed):
            pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with (
        pytest.raises(RunError, match=r"holds something else \(mine\.txt\)"),
        open_blocks(replace(order, out=tmp_path / "other")),
    ):
        pass
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(DataError, match="there are no images here"),
        open_blocks(replace(order, inputs=[str(tmp_path / "empty")], out=tmp_path / "new")),
    ):
        pass
    assert not (tmp_path / "new").exists()
    with (
        pytest.raises(ConfigError, match="expected a probability"),
        open_blocks(replace(order, abstain_below=2)),
    ):
        pass


def test_the_command_says_what_does_not_go_together(
    run: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*more: object) -> str:
        code, _, stderr = call(capsys, monkeypatch, "predict", run, *more)
        assert code == 1
        return stderr

    assert "--ray needs --out" in refused(photos, "--ray", "auto")
    assert "--move-to: not with --ray" in refused(photos, "--ray", "auto", "--out", "x", "--move-to", "y")
    assert "--device: not with --ray" in refused(photos, "--ray", "auto", "--out", "x", "--device", "cpu")
    assert "s3://bucket/x: is read on a Ray cluster only" in refused("s3://bucket/x")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on two cores of this machine."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import ray

    ray.init(
        "local", num_cpus=2, object_store_memory=80 * 1024**2, log_to_driver=False, include_dashboard=False
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_is_killed_on_the_way(run: Path, photos: Path, tmp_path: Path, cluster: Any) -> None:
    import psutil

    from blocklora.run.table.on_ray import predict_on_ray

    order = replace(order_of(run, photos, tmp_path / "out"), block=2)
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed:
            workers = [
                process.pid
                for process in psutil.Process().children(recursive=True)
                if any("MapBatches" in word or "MapWorker" in word for word in process.cmdline())
            ]
            killed.extend(workers[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    assert predict_on_ray(order, "auto", on_block=kill_one) == 36
    assert killed
    parts = [
        pyarrow.parquet.read_table(path).to_pylist() for path in sorted(order.out.glob("part-*.parquet"))
    ]
    assert [len(part) for part in parts] == [2] * 18
    assert same([row for part in parts for row in part], table(run, photos, tmp_path / "x.parquet"))
    assert predict_on_ray(order, "auto") == 36
