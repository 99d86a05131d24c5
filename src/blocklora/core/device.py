"""Choose the device and the precision, and measure memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from blocklora.core.errors import ConfigError

__all__ = [
    "Compute",
    "autocast",
    "give_back_freed_memory",
    "peak_memory_bytes",
    "resolve_device",
    "resolve_precision",
]

_STATUS = Path("/proc/self/status")
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 1 << 22  # of glibc's mallopt
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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


class Compute:
    """Where and how precisely a run computes: the device, autocast, and the loss scaling that fp16 needs.

    Args:
        device: From ``resolve_device``.
        precision: ``fp32``, ``bf16`` or ``fp16``, from ``resolve_precision``; weights stay float32.

    Attributes:
        device: The device.
        precision: The precision.
        dtype: The 16-bit type to compute in; None: the weights' own. TF32 is left switched off.
        scaler: Scales losses in fp16; does nothing otherwise.

    Raises:
        ConfigError: Several processes were started.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        processes = os.environ.get("WORLD_SIZE", "1")
        if processes != "1":
            raise ConfigError(
                f"{processes} processes were started; blocklora trains in one: run it without a launcher."
            )
        self.device, self.precision, self.dtype = device, precision, _DTYPES[precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> torch.autocast:
        """Return the context in which a model computes in the precision."""
        return autocast(self.device, self.precision)

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        """Add a loss's gradients, scaled where the precision asks for it."""
        torch.autograd.backward(self.scaler.scale(loss), retain_graph=retain_graph)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step an optimizer by the gradients, and clear them; a step whose gradients overflowed is left out."""
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model computes in ``precision``; weights stay float32."""
    dtype = _DTYPES[precision]
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
    if precision not in _DTYPES:
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
