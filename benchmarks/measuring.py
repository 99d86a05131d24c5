"""Time and memory, measured so that other processes disturb the figures little; and what they were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from blocklora.core.device import peak_memory_bytes

__all__ = ["circumstances", "in_fresh_process", "interleaved", "peak_above", "ratio", "write"]

_HERE = Path(__file__).parent
_PACKAGES = ("torch", "transformers", "peft")


def interleaved(steps: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run all steps in turn, round after round, on one thread.

    Returns:
        Seconds of each step in each round: this process's CPU time, or on a GPU the time between two events.
    """
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(_seconds(step))
    return seconds


def ratio(of: list[float], to: list[float]) -> float:
    """Median over rounds of one step's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _seconds(step: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        start = time.process_time()
        step()
        return time.process_time() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start_event.record()
    step()
    end_event.record()
    torch.cuda.synchronize()
    return float(start_event.elapsed_time(end_event)) / 1000


def peak_above(step: Callable[[], Any]) -> dict[str, int]:
    """Run a step in a fresh process's quiet moment: its peak resident memory in bytes, and that above the start."""
    before = psutil.Process().memory_info().rss
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: the peak starts anew; elsewhere building the model is in it
    step()
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"peak_bytes": peak, "before_bytes": before, "above_bytes": peak - before}


def in_fresh_process(script: str, *arguments: str, processes: int = 1) -> Any:
    """Run one of these scripts by itself, or in processes of torchrun; return the JSON of the last line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable, "-W", "ignore", *(launcher if processes > 1 else []), str(_HERE / script), *arguments
    ]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def circumstances() -> dict[str, Any]:
    """What numbers were made with: versions, machine, and the state of the source."""

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", *arguments], cwd=_HERE, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {psutil.cpu_count()} CPUs",
        "gpu": gpu,
        "git_commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py")),
    }


def write(path: Path, result: Any) -> None:
    """Write a result as JSON; the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown CPU")
