"""Choose the device and the precision, and measure memory."""

from __future__ import annotations

import sys

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from blocklora.errors import ConfigError

__all__ = ["make_accelerator", "peak_memory_bytes", "resolve_precision"]

_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(device: str = "auto", precision: str = "auto") -> Accelerator:
    """Return an accelerator for a device and a precision.

    Args:
        device: ``auto`` (the machine's accelerator if it has one, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; see ``resolve_precision``.

    Raises:
        ConfigError: The machine has no such device, or the device cannot compute in that precision.
    """
    kind, _, index = device.partition(":")
    available = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if kind not in available or (index and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"device '{device}': expected auto, cpu, cuda, cuda:N or mps.")
    if not available[kind] or (index and int(index) >= torch.cuda.device_count()):
        found = [name for name, there in available.items() if there and name != "auto"]
        raise ConfigError(f"device '{device}': not found on this machine; it has: {', '.join(found)}.")
    if index:
        torch.cuda.set_device(int(index))
    # accelerate keeps its first choice for the life of the process; a notebook may well make a second one.
    AcceleratorState._reset_state(reset_partial_state=True)
    chosen = Accelerator(cpu=kind == "cpu").device
    AcceleratorState._reset_state(reset_partial_state=True)
    name = _ACCELERATE_NAMES[resolve_precision(precision, chosen)]
    accelerator = Accelerator(cpu=kind == "cpu", mixed_precision=name)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"{accelerator.num_processes} processes were started; blocklora trains in one: run it without a launcher."
        )
    return accelerator


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` is bf16 on GPUs that compute it natively (NVIDIA Ampere and later), fp16 on older ones, and fp32
    on everything else: plain CPUs are slower in 16 bits.

    Raises:
        ConfigError: The name is unknown, or fp16 is asked for outside of a GPU.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if precision not in _ACCELERATE_NAMES:
        raise ConfigError(f"precision '{precision}': expected auto, fp32, bf16 or fp16.")
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"precision 'fp16' needs a CUDA GPU, not '{device.type}'; use auto, fp32 or bf16.")
    return precision


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: torch's on a CUDA device, else the process's own."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _has_mps() -> bool:
    """Return whether this is a Mac whose GPU torch can use."""
    return bool(torch.backends.mps.is_available())
