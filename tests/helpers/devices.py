"""Every kind of device that tests run on where there is one: the CPU, CUDA (marker ``gpu``), a Mac's GPU (``mps``)."""

from __future__ import annotations

import pytest
import torch

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]
    ),
    pytest.param(
        "mps",
        marks=[pytest.mark.mps, pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS")],
    ),
]
