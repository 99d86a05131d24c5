"""predict.py of every format answers as the run does, in a process that cannot import blocklora."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blocklora import FewShotClassifier
from blocklora.core.errors import RunError
from blocklora.data import open_for_model
from blocklora.export.check import check_consumer, images_to_check
from blocklora.export.facts import facts_of
from blocklora.run.load import load_run

ALONE = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} must not be needed")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[2].rpartition("/")[0])
blocked, sys.argv = sys.argv[1], sys.argv[2:]
sys.argv = [blocked, *sys.argv]
script = sys.argv.pop(1)
runpy.run_path(script, run_name="__main__")
"""
TORCHLESS = "blocklora,torch,transformers,peft,onnx,scipy,sklearn"


def answers(folder: Path, images: list[Path], without: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the lines that predict.py of a folder prints, where some packages cannot be imported."""
    command = [sys.executable, "-c", ALONE, without, (folder / "predict.py").as_posix(), *map(str, images)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of every kind that has to be converted before a model can read it."""
    folder = tmp_path_factory.mktemp("odd")
    draw = np.random.default_rng(0)
    noise = Image.fromarray(draw.integers(0, 256, (90, 120, 3), dtype=np.uint8)).resize((240, 180))
    half = noise.copy()
    half.putalpha(Image.linear_gradient("L").resize(noise.size))
    turned = Image.Exif()
    turned[274] = 6
    half.save(folder / "rgba.png")
    noise.convert("P").save(folder / "palette.png", transparency=3)
    noise.convert("LA").save(folder / "grey.png")
    noise.save(folder / "turned.jpg", exif=turned)
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.resize((900, 700)).save(folder / "big.jpg")
    Image.fromarray(draw.integers(0, 65536, (50, 60)).astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(draw.random((50, 60), dtype=np.float32)).save(folder / "float.tiff")
    noise.resize((300, 3)).save(folder / "long.png")
    return sorted(folder.iterdir())


def test_images_are_opened_as_blocklora_opens_them(odd_images: list[Path], consumer: Any) -> None:
    for path in odd_images:
        found, expected = consumer("images").open_rgb(path, 40), open_for_model(path, 40)
        assert (found.mode, found.size) == ("RGB", expected.size)
        assert found.tobytes() == expected.tobytes(), path.name


@pytest.mark.parametrize(
    ("format_", "without", "tolerance"),
    [("onnx", TORCHLESS, 1e-3), ("numpy", f"{TORCHLESS},onnxruntime", 1e-4)],
)
def test_predict_answers_as_the_run_does_without_torch(
    format_: str, without: str, tolerance: float, exported: Callable[..., Path], run: Path, odd_images: list[Path]
) -> None:  # fmt: skip
    classifier = FewShotClassifier.load(run, device="cpu")
    expected = classifier.predict_proba(odd_images)
    found = answers(exported(format_), odd_images, without)
    assert [answer["image"] for answer in found] == [str(path) for path in odd_images]
    assert [answer["label"] for answer in found] == classifier.classes_[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose(
        [answer["probability"] for answer in found], expected.max(axis=1), atol=tolerance
    )


@pytest.mark.parametrize("format_", ["hf", "lora"])
def test_predict_answers_as_the_run_does_with_torch(format_: str, exported: Callable[..., Path]) -> None:
    """Every export runs its predict.py without blocklora, and writes down what it found."""
    found = json.loads((exported(format_) / "export.json").read_text(encoding="utf-8"))["check"]
    assert (found["images"], found["top_1"]) == (8, 1.0)
    assert found["largest_difference"] < 1e-4


@pytest.mark.parametrize(
    ("format_", "without"),
    [("onnx", TORCHLESS), ("numpy", TORCHLESS), ("hf", "blocklora,peft"), ("lora", "blocklora")],
)
def test_an_image_that_cannot_be_read_is_a_line_with_an_error_and_the_others_are_answered(
    format_: str, without: str, exported: Callable[..., Path], odd_images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    (tmp_path / "cut.jpg").write_bytes(odd_images[0].read_bytes()[:700])
    bad = [tmp_path / "gone.png", tmp_path / "no.png", tmp_path / "cut.jpg", tmp_path]
    found = answers(exported(format_), [*bad, odd_images[0]], without, code=1)
    assert [answer["image"] for answer in found] == [*map(str, bad), str(odd_images[0])]
    assert [sorted(answer) for answer in found] == [["error", "image"]] * 4 + [
        ["image", "label", "probability"]
    ]
    assert "No such file" in found[0]["error"]
    assert "cannot identify image file" in found[1]["error"]


def test_without_images_a_script_says_how_it_is_used(exported: Callable[..., Path]) -> None:
    command = [sys.executable, str(exported("numpy") / "predict.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Classify images: python predict.py IMAGE...")


def test_a_script_that_needs_blocklora_is_noticed(
    exported: Callable[..., Path], run: Path, tmp_path: Path
) -> None:
    (tmp_path / "predict.py").write_text("import blocklora", encoding="utf-8")
    loaded, images = load_run(run, device="cpu"), images_to_check(run).images
    facts = facts_of(loaded.classifier, loaded.labels, "numpy", "fp32")
    with pytest.raises(RunError, match="import of blocklora halted"):
        check_consumer(tmp_path, images, "validation", np.ones((len(images), 3)), facts, ("blocklora",))


def test_scripts_can_be_read_at_a_glance(exported: Callable[..., Path]) -> None:
    for format_ in ("onnx", "numpy"):
        folder = exported(format_)
        assert len((folder / "predict.py").read_text(encoding="utf-8").splitlines()) <= 40
        assert not any(
            "blocklora" in file.read_text(encoding="utf-8").split('"""', 2)[2] for file in folder.glob("*.py")
        )


@pytest.mark.parametrize("format_", ["onnx", "numpy"])
def test_every_file_has_its_checksum(format_: str, exported: Callable[..., Path]) -> None:
    folder = exported(format_)
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    assert set(sums) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
