"""The worked example of docs/methods.md does what the page says, and its table is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blocklora import FewShotClassifier
from blocklora.classifier.heads import HEADS
from blocklora.methods import METHODS

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_method_and_head_stands_in_a_table() -> None:
    assert set(METHODS) == set(re.findall(r"^\| `([^`]+)`(?: \| [^|]*){4} \|$", PAGE, flags=re.MULTILINE))
    assert set(HEADS) == set(re.findall(r"^\| `([^`]+)` \| [^|]* \| [^|]* \|$", PAGE, flags=re.MULTILINE))


def test_the_worked_example(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def fit" in block
    )
    there: dict[str, Any] = {"__name__": "class_means"}
    exec(compile(code, "docs/methods.md", "exec", dont_inherit=True), there)
    monkeypatch.setitem(METHODS, "class-means", there["fit"])
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    settings: dict[str, Any] = {"model": str(clip_folder), "device": "cpu", "shots": 2}
    fitted = FewShotClassifier(method="class-means", share=1.0, **settings).fit(paths, labels)
    fitted.save(tmp_path / "kept")
    without = FewShotClassifier(method="class-means", share=0.0, **settings).fit(paths, labels)
    zero_shot = FewShotClassifier(method="zero-shot", **settings).fit(paths, labels)
    np.testing.assert_allclose(without.predict_proba(paths), zero_shot.predict_proba(paths), rtol=1e-4)
    assert fitted.score(paths, labels) > zero_shot.score(paths, labels)
    monkeypatch.delitem(METHODS, "class-means")
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), fitted.predict_proba(paths))
    assert loaded.method == "class-means"
