"""The service under load, against its own backend without HTTP.

    python benchmarks/serving.py [--backend torch|onnx] [--run FOLDER] [--seconds N] [--rounds N] [--out RESULT.json]

A run of the bundled task twemoji (method gda, 16 shots), or ``--run`` with a folder that the backend takes, is served
by ``blocklora serve`` in a process of its own. Every request is one JPEG of 640 x 480 pixels on loopback. In each round
the backend first answers without HTTP (decoding ahead in threads, full batches), then over HTTP with so many requests
at a time as the queue is long. At last, twice as many requests a second as were answered over HTTP arrive, whether the
earlier ones are answered or not.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from blocklora.core.threads import read_ahead
from blocklora.run.fit import fit_run
from blocklora.serve.backend import Backend
from blocklora.serve.server import load_backends
from blocklora.serve.settings import Limits, Settings
from measuring import circumstances, write

LIMITS = Limits()
MOST_CONNECTIONS = 256


def jpegs(n: int = 16) -> list[bytes]:
    """Return files of 640 x 480 pixels with smooth colours and some noise, 40 to 60 kB each."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(n):
        small = generator.integers(0, 256, (6, 8, 3), np.uint8)
        large = np.asarray(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        noisy = large + generator.integers(-9, 10, large.shape)
        stream = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
        found.append(stream.getvalue())
    return found


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def without_http(backend: Backend, images: list[bytes], seconds: float) -> tuple[float, float]:
    """Return the images that the backend answers by itself in a second, and in a second of CPU time."""
    batch, done, began, used = LIMITS.max_batch, 0, time.monotonic(), time.process_time()

    def prepare(start: int) -> Any:
        return np.stack([backend.prepare(images[(start + n) % len(images)], "x") for n in range(batch)])

    for pixel_values in read_ahead(prepare, range(1_000_000)):
        done += len(backend.answer(pixel_values))
        if time.monotonic() - began >= seconds:
            break
    return done / (time.monotonic() - began), done / (time.process_time() - used)


@dataclass
class Load:
    """What came of requests: statuses, and the seconds of those that were answered."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answered) / self.elapsed

    def milliseconds(self, share: float) -> float:
        """Return a quantile of the times of answers."""
        return 1000 * float(np.quantile(self.answered, share))


class Client:
    """Connections that are kept open, and as little else as possible: it computes on the service's machine."""

    def __init__(self, port: int, images: list[bytes], load: Load) -> None:
        self._port, self._load = port, load
        head = (
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        )
        self._requests = [head % len(image) + image for image in images]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._sent, self.open = 0, 0

    async def ask(self) -> None:
        """Send one request and note what comes of it."""
        began = time.monotonic()
        self._sent += 1
        self.open += 1
        try:
            while self._idle and self._idle[-1][0].at_eof():  # the service closes what is idle for long
                self._idle.pop()[1].close()
            reader, writer = self._idle.pop() if self._idle else await self._connect()
            writer.write(self._requests[self._sent % len(self._requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            self._idle.append((reader, writer))
            status = head[9:12].decode()
        except (OSError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        finally:
            self.open -= 1
        self._load.statuses[status] += 1
        if status == "200":
            self._load.answered.append(time.monotonic() - began)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()


@asynccontextmanager
async def measured(port: int, images: list[bytes], load: Load) -> AsyncIterator[Client]:
    """Yield a client, and note how long it was used."""
    client, began = Client(port, images, load), time.monotonic()
    yield client
    load.elapsed = time.monotonic() - began
    client.close()


async def closed_loop(port: int, images: list[bytes], seconds: float, at_once: int) -> Load:
    """Keep so many requests in flight."""
    load, end = Load(), time.monotonic() + seconds

    async def ask(client: Client) -> None:
        while time.monotonic() < end:
            await client.ask()

    async with measured(port, images, load) as client:
        await asyncio.gather(*(ask(client) for _ in range(at_once)))
    return load


async def open_loop(port: int, images: list[bytes], seconds: float, rate: float) -> Load:
    """Send so many requests a second, whatever becomes of the earlier ones."""
    load, tasks, sent = Load(), set(), 0
    async with measured(port, images, load) as client:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            while sent < rate * passed:
                sent += 1
                if client.open >= MOST_CONNECTIONS:
                    load.statuses["not sent"] += 1
                    continue
                task = asyncio.create_task(client.ask())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
    return load


@contextmanager
def served(run: Path, backend: str) -> Iterator[tuple[int, psutil.Process]]:
    """Serve a run; yields the port and the process."""
    command = [sys.executable, "-m", "blocklora", "serve", str(run), "--backend", backend, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            found = re.search(r":(\d+) \(", process.stderr.readline())
            assert found, process.stderr.read()
            yield int(found[1]), psutil.Process(process.pid)
            assert process.poll() is None, "the service has crashed"
        finally:
            process.terminate()


def measure(run: Path, kind: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Return all figures."""
    images = jpegs()
    (backend,) = load_backends(Settings((run,), backend=kind)).values()  # type: ignore[arg-type]
    alone, over, alone_cpu, over_cpu = [], [], [], []
    with served(run, kind) as (port, process):
        asyncio.run(closed_loop(port, images, 3, LIMITS.queue))
        without_http(backend, images, 3)
        for _ in range(rounds):
            rate, by_cpu = without_http(backend, images, 10)
            used = cpu_seconds(process)
            load = asyncio.run(closed_loop(port, images, 10, LIMITS.queue))
            over_cpu.append(len(load.answered) / (cpu_seconds(process) - used))
            alone.append(rate)
            alone_cpu.append(by_cpu)
            over.append(load.rate)
        capacity, before = statistics.median(over), process.memory_info().rss
        load = asyncio.run(open_loop(port, images, seconds, 2 * capacity))
        after = process.memory_info().rss
    return {
        "backend": kind,
        "images_a_second_without_http": alone,
        "images_a_second_over_http": over,
        "share": statistics.median(o / a for o, a in zip(over, alone, strict=True)),
        "images_a_cpu_second_without_http": alone_cpu,
        "images_a_cpu_second_over_http": over_cpu,
        "share_by_cpu": statistics.median(o / a for o, a in zip(over_cpu, alone_cpu, strict=True)),
        "twice_capacity": {
            "seconds": load.elapsed,
            "requests_a_second": 2 * capacity,
            "statuses": dict(load.statuses),
            "answers_a_second": load.rate,
            "p50_ms": load.milliseconds(0.5),
            "p99_ms": load.milliseconds(0.99),
        },
        "memory_bytes": {"before": before, "after": after},
        "load_average": psutil.getloadavg(),
    }


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=["torch", "onnx"], default="torch", help="what computes")
    parser.add_argument("--run", type=Path, help="what to serve (default: a new run of twemoji)")
    parser.add_argument("--seconds", type=float, default=60, help="of the load at twice capacity")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the comparison (default 5)")
    default = Path(__file__).parent / "results" / "serving.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    given = parser.parse_args()
    made_on = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or fit_run("twemoji", Path(folder) / "run", model="tiny", method="gda", shots=16)[0]
        result = measure(run, given.backend, given.seconds, given.rounds)
    write(given.out, made_on | result)
    print(result)


if __name__ == "__main__":
    main()
