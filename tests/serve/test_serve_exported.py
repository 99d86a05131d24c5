"""A run, exported and served without torch, answers as with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blocklora.export.run import export_run
from blocklora.serve.onnx_backend import OnnxBackend
from blocklora.serve.torch_backend import TorchBackend


def test_an_exported_run_answers_as_the_run(served_run: Path, photos: Path, tmp_path: Path) -> None:
    export_run(served_run, tmp_path / "exported", "onnx")
    torch, onnx = TorchBackend(served_run, device="cpu"), OnnxBackend(tmp_path / "exported")
    assert onnx.facts.labels == torch.facts.labels
    contents = [file.read_bytes() for file in sorted(photos.rglob("*.png"))[:9]]
    expected, found = (
        np.stack(
            [
                one.probabilities
                for one in backend.answer(np.stack([backend.prepare(c, "x") for c in contents]))
            ]
        )
        for backend in (torch, onnx)
    )
    assert found == pytest.approx(expected, abs=1e-5)
