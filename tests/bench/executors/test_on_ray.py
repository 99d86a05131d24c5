"""A grid on Ray: each run once, with the figures of local processes, also where a node is lost on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.bench.executors.on_ray import Share, gpu_share, runs_at_once
from blocklora.bench.grid import load_grid
from blocklora.bench.progress import BenchProgress
from blocklora.bench.records import RunFailure, RunResult
from blocklora.bench.run import run_grid
from blocklora.bench.store import read_records
from blocklora.core.errors import ConfigError

GIB = 1024**3
MINE = """
import os, signal
from pathlib import Path
from blocklora.methods import Method
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.frozen.zero_shot import fit as zero_shot

HERE = Path(__file__).parent

def crashes(job, settings):
    if not (HERE / f"crashed-{job.seed}").exists():
        (HERE / f"crashed-{job.seed}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return zero_shot(job, settings)

def dies(job, settings):
    os.kill(os.getpid(), signal.SIGKILL)

def fails(job, settings):
    raise RuntimeError("out of luck")

METHODS = {name: Method(globals()[name], AdapterSettings) for name in ("crashes", "dies", "fails")}
"""


def write_grid(
    folder: Path, model: Path, photos: Path, *methods: str, seeds: int, iterations: int = 2
) -> Path:
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    tables = "".join(f"[methods.{method}]\n" for method in methods)
    path = folder / "grid.toml"
    path.write_text(
        f'methods_from = "mine.py"\nmodels = ["{model.as_posix()}"]\nshots = [2]\n'
        f'seeds = {list(range(1, seeds + 1))}\n[data.shapes]\npath = "{photos.as_posix()}"\n{tables}'
        f'[settings]\niterations = {iterations}\ndevice = "cpu"\n',
        encoding="utf-8",
    )
    return path


@given(
    cpus=st.lists(st.integers(0, 64), max_size=5),
    share=st.builds(Share, st.integers(1, 8), st.integers(1, 8).map(lambda n: n * GIB)),
)
def test_as_many_runs_as_fit(cpus: list[int], share: Share) -> None:
    nodes = [{"CPU": float(n), "memory": 16.0 * GIB} for n in cpus]
    expected = sum(min(n // share.cpus, 16 * GIB // share.memory_bytes) for n in cpus)
    assert runs_at_once(nodes, share) == expected
    assert runs_at_once(nodes, Share(share.cpus, share.memory_bytes, gpus=0.5)) == 0


def test_runs_share_a_gpu() -> None:
    nodes = [{"CPU": 64.0, "memory": 99.0 * GIB, "GPU": 2.0}, {"CPU": 64.0, "memory": 99.0 * GIB, "GPU": 1.0}]
    assert runs_at_once(nodes, Share(1, GIB, gpus=0.05)) == 60
    assert runs_at_once(nodes, Share(1, GIB, gpus=0.35)) == 7
    assert runs_at_once(nodes, Share(1, GIB, gpus=1.0)) == 3


def test_a_share_of_a_gpu_is_what_the_planner_says(tmp_path: Path, clip_folder: Path, photos: Path) -> None:
    grid = load_grid(write_grid(tmp_path, clip_folder, photos, "block-lora", "zero-shot", seeds=1))
    by_method = {run.method: run for run in grid.runs}
    assert gpu_share(by_method["zero-shot"], 3, 24 * 10**9) == (1.0, None)
    small, limit = gpu_share(by_method["block-lora"], 3, 24 * 10**9)
    assert (small, limit) == (0.05, 24 * 10**9 // 20)
    tight, limit = gpu_share(by_method["block-lora"], 3, 30 * 10**6)
    assert 0.05 < tight <= 1
    assert limit == pytest.approx(tight * 30 * 10**6, abs=1)


def test_what_cannot_work_is_said(
    tmp_path: Path, clip_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = write_grid(tmp_path, clip_folder, photos, "block-lora", seeds=1)
    with pytest.raises(ConfigError, match="workers and ray: expected one of them"):
        run_grid(grid, tmp_path / "results", workers=2, ray="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'blocklora\[ray\]'"):
        run_grid(grid, tmp_path / "results", ray="auto")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local cluster whose head has no cores, with two nodes of one core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 1024**2, "memory": 8 * GIB}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    made.workers = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


class _LosesANode(BenchProgress):
    """Ends a node of a cluster, as a power cut does, when the first run is done."""

    def __init__(self, console: Any, cluster: Any) -> None:
        super().__init__(console)
        self._cluster, self._ended = cluster, False

    def end(self, run: Any, seconds: float, error: str | None) -> None:
        super().end(run, seconds, error)
        if not self._ended:
            self._ended = True
            self._cluster.remove_node(self._cluster.workers[0], allow_graceful=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_node_is_lost_on_the_way(tmp_path: Path, clip_folder: Path, photos: Path, cluster: Any) -> None:
    from rich.console import Console

    here = run_grid(
        write_grid(tmp_path, clip_folder, photos, "block-lora", seeds=2), tmp_path / "local", workers=1
    )
    assert here["done"] == 2
    grid = write_grid(tmp_path, clip_folder, photos, "block-lora", "crashes", "dies", "fails", seeds=2)
    with _LosesANode(Console(quiet=True), cluster) as progress:
        counts = run_grid(grid, tmp_path / "results", ray="auto", progress=progress)
    assert counts == {"planned": 8, "done": 4, "failed": 4, "failed_before": 0}
    lines = (tmp_path / "results" / "runs.jsonl").read_bytes().splitlines()
    records = read_records(tmp_path / "results")
    assert len(lines) == len(records) == 8
    local = read_records(tmp_path / "local")
    for key, record in local.items():
        assert isinstance(record.outcome, RunResult)
        assert isinstance(records[key].outcome, RunResult)
        assert records[key].outcome.accuracy == record.outcome.accuracy
        assert records[key].outcome.split_sha256 == record.outcome.split_sha256
    for record in records.values():
        if record.entry.method == "crashes":
            assert record.attempts >= 2
        if isinstance(record.outcome, RunFailure):
            expected = {"dies": "the process or its node was lost", "fails": "RuntimeError: out of luck"}
            assert record.outcome.error.startswith(expected[record.entry.method])
    again = run_grid(grid, tmp_path / "results", ray="auto")
    assert again == {"planned": 8, "done": 0, "failed": 0, "failed_before": 4}
    assert not (tmp_path / "results" / "running").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_fits_nowhere_is_refused(
    tmp_path: Path, clip_folder: Path, photos: Path, cluster: Any
) -> None:
    for node in cluster.workers:
        cluster.remove_node(node)
    grid = write_grid(tmp_path, clip_folder, photos, "block-lora", seeds=1)
    with pytest.raises(
        ConfigError, match=r"no node has room for a run, which takes 1 CPU, 3\.22 GB of memory"
    ):
        run_grid(grid, tmp_path / "results", ray="auto")
