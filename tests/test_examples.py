"""The examples run as their first lines say, and are short."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from small_service import listening

from blocklora import FewShotClassifier
from blocklora.export.run import export_run
from blocklora.run.fit import fit_run
from blocklora.serve.server import make_app
from blocklora.serve.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "examples"


def start(name: str, *arguments: object) -> None:
    """Run an example as ``python examples/NAME ARGUMENTS`` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture(scope="module")
def finished(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN folder of coloured shapes; do not write into it."""
    out = tmp_path_factory.mktemp("example") / "run"
    fit_run(str(photos), out, model=str(clip_folder), method="gda", shots=4, device="cpu")
    return out


def test_every_example_is_short() -> None:
    for example in EXAMPLES.glob("*.py"):
        assert len(example.read_text(encoding="utf-8").splitlines()) < 60, example.name


def test_own_photos(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    start("own_photos.py", photos, "--model", clip_folder, "--seconds", 5, "--keep", kept)
    said = capsys.readouterr().out
    assert "fitted to 27 images" in said
    assert "of 9 images that it has not seen" in said
    assert "read back: " in said
    assert FewShotClassifier.load(kept, device="cpu").method == "auto"


def test_label_loop(clip_folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start("label_loop.py", photos, photos, "--model", clip_folder, "--rounds", 1, "-n", 4)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("3 labels: ")
    assert second.startswith("7 labels: ")


def test_onnx_consumer(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_run(finished, tmp_path / "exported", "onnx")
    image = next(photos.glob("red_square/*.png"))
    capsys.readouterr()
    start("onnx_consumer.py", tmp_path / "exported", image)
    assert capsys.readouterr().out.startswith(f"{image}: red_square ")


def test_service_client(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(photos.glob("red_square/*.png"))
    (tmp_path / "note.txt").write_text("no image", encoding="utf-8")
    with listening(make_app(Settings((finished,), device="cpu"))) as (address, _):
        start("service_client.py", address, image, tmp_path / "note.txt")
    said = capsys.readouterr().out.splitlines()
    first, second = (line for line in said if not line.startswith("{"))  # the service logs as JSON
    assert first.startswith(f"{image}: red_square (")
    assert ": 415 " in second
