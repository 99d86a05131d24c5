"""A grid of 40 runs on a local Ray cluster of two nodes, beside local processes; and with a node lost on the way.

    python benchmarks/ray_grid.py [--out RESULT.json]

Each node has one core, and two local processes do the same. Times are from the first finished run to the last, so that
the start of processes is not in them; the first figure is their ratio. Then the grid is done again, and a node is ended
without warning after ten runs: there must be 40 results, none twice, with the figures of the local processes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from blocklora.bench.progress import BenchProgress
from blocklora.bench.records import RunResult
from blocklora.bench.run import run_grid
from blocklora.bench.store import read_records
from measuring import circumstances, write

GRID = """
models = ["tiny"]
shots = [1, 4]
seeds = [1, 2, 3, 4, 5]
[data.digits]
[methods.gda]
[methods.proker]
[methods.prototypes]
[methods.zero-shot-probe]
[settings]
device = "cpu"
"""
GIB = 1024**3


class Watched(BenchProgress):
    """Remembers when runs ended, and ends a node after some of them."""

    def __init__(self, cluster: Any = None, after: int = 0) -> None:
        super().__init__(Console(quiet=True))
        self.ends: list[float] = []
        self._cluster, self._after = cluster, after

    def end(self, run: Any, seconds: float, error: str | None) -> None:
        """Count a run."""
        super().end(run, seconds, error)
        self.ends.append(time.monotonic())
        if self._cluster and len(self.ends) == self._after:
            self._cluster.remove_node(self._cluster.workers[0], allow_graceful=False)


def start_cluster() -> Any:
    """Return a cluster whose head has no cores, with two nodes of one."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 * 1024**2, "memory": 8 * GIB}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    cluster.workers = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    return cluster


def figures(results: Path) -> dict[str, tuple[float, str]]:
    """Return accuracy and images of every run."""
    found = {}
    for key, record in read_records(results).items():
        assert isinstance(record.outcome, RunResult), record
        found[key] = record.outcome.accuracy, record.outcome.split_sha256
    return found


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parent / "results" / "ray_grid.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ[name] = "0"
    result: dict[str, Any] = circumstances()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        (base / "grid.toml").write_text(GRID, encoding="utf-8")
        watched = {"local": Watched()}
        run_grid(base / "grid.toml", base / "local", workers=2, progress=watched["local"])
        cluster = start_cluster()
        watched["ray"] = Watched()
        run_grid(base / "grid.toml", base / "ray", ray="auto", progress=watched["ray"])
        lost = Watched(cluster, after=10)
        counts = run_grid(base / "grid.toml", base / "lost", ray="auto", progress=lost)
        import ray

        ray.shutdown()
        cluster.shutdown()
        seconds = {name: one.ends[-1] - one.ends[0] for name, one in watched.items()}
        lines = len((base / "lost" / "runs.jsonl").read_bytes().splitlines())
        local, other, with_loss = (figures(base / name) for name in ("local", "ray", "lost"))
        attempts = [record.attempts for record in read_records(base / "lost").values()]
    result |= {
        "seconds_from_first_to_last": seconds,
        "ray_over_local": seconds["ray"] / seconds["local"],
        "node_lost": {
            "counts": counts,
            "lines": lines,
            "distinct": len(with_loss),
            "runs_done_again": sum(n > 1 for n in attempts),
        },
        "same_figures": local == other == with_loss,
    }
    write(arguments.out, result)
    print({name: result[name] for name in ("ray_over_local", "node_lost", "same_figures")})


if __name__ == "__main__":
    main()
