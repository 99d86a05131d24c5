"""The backend without torch: the same pixels as with it, the model's answers, and folders that are others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_folder import PREPROCESS, write_onnx_folder
from PIL import Image
from small_service import encoded, png

from blocklora.core.errors import ImageError, RunError
from blocklora.serve.onnx_backend import OnnxBackend
from blocklora.serve.torch_backend import TorchBackend

SIZES = [(32, 32), (33, 47), (31, 200), (640, 480), (1, 700), (700, 1), (5, 5), (300, 301)]


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx_folder(tmp_path_factory.mktemp("exported") / "lamp")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_those_of_torch(served_run: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    torch = TorchBackend(served_run, device="cpu")
    processor = torch._processor
    how = PREPROCESS | {"mean": list(processor.image_mean), "std": list(processor.image_std)}
    onnx = OnnxBackend(write_onnx_folder(tmp_path / "exported", preprocess=how))
    for kind in ("PNG", "JPEG"):
        content = encoded(noise(*size), kind)
        expected = torch.prepare(content, "x")
        assert onnx.prepare(content, "x") == pytest.approx(expected, abs=1e-5)


def test_a_square_is_made_at_once_where_the_model_wants_it(tmp_path: Path) -> None:
    how = PREPROCESS | {"resize": "square", "resample": "bilinear"}
    onnx = OnnxBackend(write_onnx_folder(tmp_path / "exported", preprocess=how))
    image = noise(90, 40)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    assert onnx.prepare(encoded(image, "PNG"), "x") == pytest.approx(expected, abs=1e-6)


def test_the_model_answers(folder: Path) -> None:
    onnx = OnnxBackend(folder, threads=1)
    assert (onnx.facts.labels, onnx.facts.method) == (("dark", "light"), "brightness")
    answers = onnx.answer(np.stack([onnx.prepare(png(grey), "x") for grey in (0, 51, 255)]))
    rows = np.stack([one.probabilities for one in answers])
    assert rows == pytest.approx(np.array([[1, 0], [0.8, 0.2], [0, 1]]), abs=1e-6)
    with pytest.raises(ImageError, match=r"^x: "):
        onnx.prepare(b"no", "x")


@pytest.mark.parametrize(
    "changed", [{"format": "numpy"}, {"version": 2}, {"preprocess": {}}, {"labels": None}]
)
def test_another_export_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="blocklora export RUN --format onnx"):
        OnnxBackend(write_onnx_folder(tmp_path / "exported", **changed))


def test_a_folder_that_is_incomplete_is_refused(tmp_path: Path) -> None:
    folder = write_onnx_folder(tmp_path / "exported")
    (folder / "pixels.onnx").write_bytes(b"nonsense")
    with pytest.raises(RunError, match=r"pixels\.onnx: cannot be used"):
        OnnxBackend(folder)
    (folder / "export.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"export\.json: cannot be read"):
        OnnxBackend(folder)


def test_torch_is_not_imported(folder: Path) -> None:
    code = f"""
import json, sys
from pathlib import Path
import blocklora.cli.app
from blocklora.serve.server import make_app
from blocklora.serve.settings import Settings
make_app(Settings((Path({str(folder)!r}),), backend="onnx"))
print(json.dumps(sorted({{"torch", "transformers", "peft", "sklearn"}} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
