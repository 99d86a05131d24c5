"""Choose the device and the precision, and measure memory."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from blocklora.errors import ConfigError

__all__ = [
    "autocast",
    "compute_dtype",
    "give_back_freed_memory",
    "make_accelerator",
    "peak_memory_bytes",
    "resolve_device",
    "resolve_precision",
]

_STATUS = Path("/proc/self/status")
_ACCELERATE_NAMES = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 1 << 22  # of glibc's mallopt
_DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str = "auto") -> torch.device:
    """Return the device that a name means on this machine.

    Args:
        device: ``auto`` (the machine's GPU if it has one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: The name is unknown, or the machine has no such device.
    """
    kind, _, index = device.partition(":")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, found in there.items() if found))
    if kind not in there or (":" in device and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"device '{device}': expected auto, cpu, cuda, cuda:N or mps.")
    if not there[kind] or (index and int(index) >= torch.cuda.device_count()):
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise ConfigError(f"device '{device}': not found on this machine; it has: {found}.")
    return torch.device(device)


def make_accelerator(device: torch.device, precision: str) -> Accelerator:
    """Return an accelerator for training on a device.

    accelerate keeps one state for the whole process, and a notebook may well train twice; so the state is made
    anew here, and nobody else asks an accelerator what it is.

    Args:
        device: From ``resolve_device``.
        precision: ``fp32``, ``bf16`` or ``fp16``, from ``resolve_precision``.

    Raises:
        ConfigError: Several processes were started.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=_ACCELERATE_NAMES[precision])
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"{accelerator.num_processes} processes were started; blocklora trains in one: run it without a launcher."
        )
    return accelerator


def compute_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """Return the 16-bit type that an accelerator trains in; None: the weights' own. TF32 is left switched off."""
    return _DTYPES[str(accelerator.mixed_precision)]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model computes in ``precision``; weights stay float32."""
    dtype = _DTYPES[_ACCELERATE_NAMES[precision]]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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


def give_back_freed_memory() -> None:
    """Let large blocks go back to the system as soon as they are freed, from now on in this whole process.

    Where the C library is not glibc nothing is done.

    Left to itself glibc keeps freed blocks of up to 32 MB for later, and versions before 2.38 often fail to use them
    again for aligned ones, which torch's are: a process can come to half as much again as it uses. Giving them back
    costs some time, as new blocks have to be cleared.
    """
    if platform.libc_ver()[0] == "glibc":
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: torch's on a CUDA device, else the process's own."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if _STATUS.exists():  # Linux: there ru_maxrss begins with the size of the process that started this one
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), flags=re.MULTILINE)
        if found:
            return int(found.group(1)) * 1024
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
