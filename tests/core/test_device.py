from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from blocklora.core import device
from blocklora.core.device import (
    Compute,
    autocast,
    give_back_freed_memory,
    peak_memory_bytes,
    reset_peak_memory,
    resolve_device,
    resolve_precision,
)
from blocklora.core.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_a_process_may_compute_in_one_way_after_another() -> None:
    assert [Compute(CPU, name).dtype for name in ("fp32", "bf16", "fp32")] == [None, torch.bfloat16, None]


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started"):
        Compute(CPU, "fp32")


def test_autocast() -> None:
    a = torch.ones(2, 2)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def precision_settings() -> list[object]:
    """Every setting of torch that decides about TF32 and deterministic kernels."""
    return [
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    ]


@pytest.fixture
def compute_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Compute:
    """What a run on a CUDA GPU gets; only settings are looked at, nothing is computed there."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.amp.GradScaler, "__init__", lambda *_, **__: None)
    return Compute(CUDA, "fp32", deterministic=True)


@pytest.mark.filterwarnings("ignore:.*TF32.*")
@pytest.mark.parametrize("matmul", ["highest", "high"])
def test_tf32_is_off_while_training_and_as_before_after(compute_on_cuda: Compute, matmul: str) -> None:
    torch.set_float32_matmul_precision(matmul)
    before = precision_settings()
    try:
        assert before[3] is True  # torch's default for convolutions, the patch embedding among them
        with compute_on_cuda.training():
            assert precision_settings_inside() == ["ieee"] * 3
            assert torch.are_deterministic_algorithms_enabled()
        assert precision_settings() == before
        with pytest.raises(ZeroDivisionError), compute_on_cuda.training():
            1 / 0  # noqa: B018
        assert precision_settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def precision_settings_inside() -> list[str]:
    backends = torch.backends
    return [owner.fp32_precision for owner in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)]


def test_older_torch_has_other_names_for_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=False)
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    restore = device._full_fp32()
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    restore()
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, False)


def test_a_setting_holds_until_its_last_user_is_done() -> None:
    """With several threads: the first to leave must not change it under the others."""
    state = ["caller's"]

    def change() -> Callable[[], None]:
        before, state[0] = state[0], "ours"
        return lambda: state.__setitem__(0, before)

    setting = device._ProcessSetting(change)
    one, other = setting(), setting()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert state == ["ours"]
    other.__exit__(None, None, None)
    assert state == ["caller's"]


def test_deterministic_kernels_need_a_workspace_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(ConfigError, match=r"only with CUBLAS_WORKSPACE_CONFIG=:4096:8 .*, and it is not set"):
        Compute(CUDA, "fp32", deterministic=True)
    with Compute(CPU, "fp32", deterministic=True).training():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_inside_the_callers_contexts() -> None:
    weight, compute = torch.nn.Parameter(torch.ones(2, 2)), Compute(CPU, "fp32")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with compute.training():
            loss = (weight @ weight).sum()
            assert loss.dtype == torch.float32
            compute.backward(loss)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert weight.grad is not None
    with (
        torch.inference_mode(),
        pytest.raises(ConfigError, match=r"training inside torch\.inference_mode"),
        compute.training(),
    ):
        pass


def test_new_tensors_are_float32_while_training() -> None:
    compute, before = Compute(CPU, "fp32"), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with compute.training():
            assert torch.ones(1).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_the_peak_of_an_earlier_run_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    reset_peak_memory(CPU)
    assert reset == []
    reset_peak_memory(CUDA)
    assert reset == [CUDA]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "cpu:1", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match=rf"device '{name}': not found on this machine; it has: cpu\."):
            resolve_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="device 'cuda:2': not found"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_automatic_precision(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision("auto", CUDA) == expected
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("fp16", CUDA) == "fp16"


def test_wrong_precisions() -> None:
    with pytest.raises(ConfigError, match="precision 'int8': expected auto, fp32, bf16 or fp16"):
        resolve_precision("int8", CPU)
    with pytest.raises(ConfigError, match="precision 'fp16' needs a CUDA GPU, not 'cpu'"):
        resolve_precision("fp16", CPU)


_HOLES = """
import psutil, sys, torch
from blocklora.core.device import give_back_freed_memory
torch.ones(7 << 20)  # 28 MB, freed at once: from now on glibc keeps blocks of that size
if sys.argv[1] == "back":
    give_back_freed_memory()
blocks = [torch.ones(2 << 20) for _ in range(20)]
before = psutil.Process().memory_info().rss
del blocks[:-1:2]
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere it does nothing")
def test_freed_memory_is_given_back() -> None:
    given, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", _HOLES, how], check=True, capture_output=True, text=True
            ).stdout
        )
        for how in ("back", "keep")
    )
    assert given > 9 * (8 << 20)  # ten blocks of 8 MiB
    assert kept < 8 << 20


def test_on_another_c_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", None)  # is not called
    give_back_freed_memory()


def test_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before = peak_memory_bytes(CPU)
    block = torch.zeros(30_000_000)
    assert peak_memory_bytes(CPU) >= max(before, block.numel() * 4)
    monkeypatch.setattr(device, "_STATUS", Path("nowhere"))
    assert peak_memory_bytes(CPU) >= block.numel() * 4
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 123)
    assert peak_memory_bytes(CUDA) == 123
    monkeypatch.setattr(sys, "platform", "win32")
    info = SimpleNamespace(peak_wset=456)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: info))
    assert peak_memory_bytes(CPU) == 456
