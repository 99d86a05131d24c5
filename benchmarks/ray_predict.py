"""Classify 20,000 images on Ray Data, kill a worker on the way, and count rows afterwards.

    python benchmarks/ray_predict.py [--images N] [--out RESULT.json]

A local cluster of two cores; the worker is killed (SIGKILL) when a third of the images is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pyarrow.parquet

from blocklora.run.table.blocks import BlockOrder
from blocklora.run.table.on_ray import predict_on_ray
from killed_predict import make_images, make_run
from measuring import circumstances, write


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000)
    default = Path(__file__).parent / "results" / "ray_predict.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ[name] = "0"
    made_on = circumstances()
    import ray

    ray.init(
        "local", num_cpus=2, object_store_memory=80 * 1024**2, log_to_driver=False, include_dashboard=False
    )
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if 3 * done >= total and not killed:
            for process in psutil.Process().children(recursive=True):
                if any("MapBatches" in word or "MapWorker" in word for word in process.cmdline()):
                    killed.append(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    return

    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        make_images(base / "in", arguments.images)
        make_run(base / "run")
        order = BlockOrder(base / "run", [str(base / "in")], base / "out")
        predict_on_ray(order, "auto", on_block=kill_one)
        ray.shutdown()
        names: list[str] = []
        parts = sorted(order.out.glob("part-*.parquet"))
        for part in parts:
            names += pyarrow.parquet.read_table(part)["image"].to_pylist()
        found = {"images": arguments.images, "rows": len(names), "distinct_images": len(set(names))}
        found |= {"parts": len(parts), "workers_killed": len(killed)}
    write(arguments.out, made_on | {"found": found})
    print(found)
    if not found["images"] == found["rows"] == found["distinct_images"] or not killed:
        sys.exit("some are missing or there twice, or no worker was killed")


if __name__ == "__main__":
    main()
