"""Models of other families than CLIP's: each format writes them and answers as the run, or refuses them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from relatives import write_relative

from blocklora import FewShotClassifier
from blocklora.core.errors import ConfigError
from blocklora.export.run import FORMATS, export_run


@pytest.fixture(scope="module")
def saved_relative(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The function that fits clip-lora to a random model of a family, once."""

    @cache
    def save(name: str) -> Path:
        model = write_relative(tmp_path_factory.mktemp("models") / name, name)
        classifier = FewShotClassifier(
            model=str(model), method="clip-lora", device="cpu", iterations=2, lr=1e-2
        )
        images = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "darkred", "navy")]
        classifier.fit(images, ["red", "blue", "red", "blue"])
        classifier.save(out := tmp_path_factory.mktemp("saved") / name)
        return out

    return save


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("siglip", "onnx"),
        ("siglip", "hf"),
        ("siglip", "lora"),
        ("chinese_clip", "onnx"),
        ("metaclip_2", "numpy"),
    ],
)
def test_a_model_of_another_family_answers_as_its_run(
    name: str, format_: Any, saved_relative: Callable[[str], Path], tmp_path: Path
) -> None:
    check = export_run(saved_relative(name), tmp_path / "out", format_).facts.check
    assert check["top_1"] == 1.0
    assert check["largest_difference"] < 1e-4


@pytest.mark.parametrize("format_", FORMATS)
def test_a_model_that_reads_patches_is_refused(
    format_: Any, saved_relative: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match="NaFlex reads patches, not images, and no export has a place for them"
    ):
        export_run(saved_relative("siglip2"), tmp_path / "out", format_)
    assert list(tmp_path.iterdir()) == []


def test_numpy_has_no_other_tower_than_clips(saved_relative: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is a siglip .*; expected an image tower of CLIP .* Use --format onnx"
    ):
        export_run(saved_relative("siglip"), tmp_path / "out", "numpy")
    assert list(tmp_path.iterdir()) == []
