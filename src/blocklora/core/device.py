"""Choose the device and the precision, and measure memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from blocklora.core.errors import ConfigError
from blocklora.core.ranks import ALONE, Ranks, started_ranks

__all__ = [
    "Compute",
    "autocast",
    "give_back_freed_memory",
    "out_of_memory",
    "peak_memory_bytes",
    "reset_peak_memory",
    "resolve_device",
    "resolve_precision",
    "usable_precision",
]

_STATUS = Path("/proc/self/status")
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 1 << 22  # of glibc's mallopt
_WORKSPACE, _REPEATABLE_WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
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

    On a CPU a run repeats to the last bit. On CUDA some of torch's kernels add in whatever order their threads come,
    so a repeated run may differ in its last bits unless ``deterministic`` is set.

    Args:
        device: From ``resolve_device``.
        precision: ``fp32``, ``bf16`` or ``fp16``, from ``resolve_precision``; weights stay float32.
        deterministic: Whether torch may only use kernels that repeat to the last bit; slower on CUDA.
        ranks: The processes that share the work.

    Attributes:
        device: The device.
        precision: The precision.
        dtype: The 16-bit type to compute in; None: the weights' own.
        scaler: Scales losses in fp16; does nothing otherwise.
        ranks: As given.

    Raises:
        ConfigError: Several processes were started, or the environment does not allow deterministic kernels.
    """

    def __init__(
        self,
        device: torch.device,
        precision: str,
        *,
        deterministic: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        processes = started_ranks()
        if processes != ranks.count:
            raise ConfigError(
                f"{processes} processes were started, and only blocklora fit shares its work among several: run it "
                "without a launcher."
            )
        workspace = os.environ.get(_WORKSPACE)
        if deterministic and device.type == "cuda" and workspace not in _REPEATABLE_WORKSPACES:
            raise ConfigError(
                f"deterministic: cuBLAS repeats to the last bit only with {_WORKSPACE}=:4096:8 in the environment "
                f"(or :16:8, which is smaller and slower), and it is {workspace or 'not set'}: set it before the start."
            )
        self.device, self.precision, self.dtype = device, precision, _DTYPES[precision]
        self.deterministic, self.ranks = deterministic, ranks
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which a model computes in the precision, without TF32."""
        return autocast(self.device, self.precision)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Make gradients possible whatever the caller's context is, and leave the caller's settings as they were.

        Inside, gradients are recorded, the caller's own autocast is off, new tensors are float32 by default, fp32 is
        full fp32 (no TF32), and kernels are deterministic where that was asked for.

        Raises:
            ConfigError: The caller is in ``torch.inference_mode``, whose tensors can never have gradients.
        """
        if torch.is_inference_mode_enabled():
            raise ConfigError(
                "training inside torch.inference_mode() is impossible: its tensors can have no gradients; "
                "call fit outside of it (torch.no_grad() is fine)."
            )
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_FLOAT32())
            for kind in {"cpu", self.device.type}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            if self.device.type == "cuda":
                stack.enter_context(_FULL_FP32())
            if self.deterministic:
                stack.enter_context(_DETERMINISTIC())
            yield

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of a loss, a scalar, scaled where the precision asks for it."""
        torch.autograd.backward(self.scaler.scale(loss), retain_graph=retain_graph)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step an optimizer by the gradients, and clear them; a step whose gradients overflowed is left out."""
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Compute in ``precision`` inside; weights stay float32, and on CUDA fp32 is full fp32, not TF32."""
    dtype = _DTYPES[precision]
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_FULL_FP32())
        stack.enter_context(torch.autocast(device.type, dtype=dtype, enabled=dtype is not None))
        yield


class _ProcessSetting:
    """A setting of the whole process that holds while any thread needs it, and is then as it was before.

    Args:
        change: Changes the setting, and returns what changes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._users = 0
        self._restore: Callable[[], None] = lambda: None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._restore = self._change()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._restore()


def _full_fp32() -> Callable[[], None]:
    """Switch TF32 off, which cuDNN's convolutions use unless told otherwise."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")  # torch 2.9 and later
    owners = (cudnn.conv, cudnn.rnn, matmul) if new else (cudnn, matmul)
    name, off = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    before = [getattr(owner, name) for owner in owners]
    for owner in owners:
        setattr(owner, name, off)

    def restore() -> None:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)

    return restore


def _float32() -> Callable[[], None]:
    """Let new tensors be float32 where nothing else is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    return lambda: torch.set_default_dtype(before)


def _deterministic() -> Callable[[], None]:
    """Allow deterministic kernels only."""
    on, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    return lambda: torch.use_deterministic_algorithms(on, warn_only=warn_only)


_FULL_FP32, _DETERMINISTIC = _ProcessSetting(_full_fp32), _ProcessSetting(_deterministic)
_FLOAT32 = _ProcessSetting(_float32)


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``.

    ``auto`` is bf16 on GPUs that compute it natively (NVIDIA Ampere and later), fp16 on older ones, and fp32
    on everything else: plain CPUs are slower in 16 bits.

    Raises:
        ConfigError: The name is unknown, or fp16 was asked for without a CUDA GPU.
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


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory ran out, on a GPU or in torch's CPU allocator, whatever the system."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("DefaultCPUAllocator", "out of memory")
    )


def usable_precision(precision: str, device: torch.device) -> str:
    """Return a precision that another machine computed in, or what ``auto`` takes where this device lacks it."""
    try:
        return resolve_precision(precision, device)
    except ConfigError:
        return resolve_precision("auto", device)


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


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of earlier runs on a CUDA device; that of a process on a CPU cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory used so far, in bytes.

    On a CUDA device it is that of torch's tensors since ``reset_peak_memory``, else the size of the whole process
    since its start.
    """
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
