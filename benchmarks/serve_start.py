"""How long ``blocklora serve --backend onnx`` takes to start, and what memory it needs.

    python benchmarks/serve_start.py EXPORTED [--starts N] [--out RESULT.json]

EXPORTED is what ``blocklora export RUN --format onnx --out EXPORTED`` has written. A start ends when ``/readyz`` has
answered; then 50 images of 640 x 480 pixels are classified, one after the other. On a busy machine only the CPU time
says something; ``chrt -r 1 python ...`` (Linux, root) runs this before all other work, as on a quiet one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from measuring import circumstances, write
from serving import cpu_seconds, jpegs

IMAGES = 50


def start(folder: Path) -> dict[str, float]:
    """Start the service once, and return seconds and bytes."""
    command = [sys.executable, "-m", "blocklora", "serve", str(folder), "--backend", "onnx", "--port", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        try:
            found = re.search(r"http://\S+", service.stderr.readline())
            assert found, service.stderr.read()
            urllib.request.urlopen(f"{found[0]}/readyz", timeout=60)
            seconds, process = time.monotonic() - began, psutil.Process(service.pid)
            result = {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds(process),
                "bytes": process.memory_info().rss,
            }
            for image in jpegs(IMAGES):
                kind = {"Content-Type": "image/jpeg"}
                urllib.request.urlopen(urllib.request.Request(f"{found[0]}/v1/predict", image, kind))
            return result | {"bytes_afterwards": process.memory_info().rss}
        finally:
            service.terminate()


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exported", type=Path, help="the exported folder")
    parser.add_argument("--starts", type=int, default=5, help="how often to start (default 5)")
    default = Path(__file__).parent / "results" / "serve_start.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    given = parser.parse_args()
    result = circumstances() | {"starts": [start(given.exported) for _ in range(given.starts)]}
    result["load_average"] = psutil.getloadavg()
    write(given.out, result)
    print(result["starts"])


if __name__ == "__main__":
    main()
