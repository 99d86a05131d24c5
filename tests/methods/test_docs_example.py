"""docs/methods.md lists every method and head, and its example is the file that it names and does what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blocklora import FewShotClassifier
from blocklora.classifier import HEADS
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, Method

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "new_method.py"


def test_every_method_and_head_stands_in_a_table() -> None:
    assert set(METHODS) == set(re.findall(r"^\| `([^`]+)`(?: \| [^|]*){4} \|$", PAGE, flags=re.MULTILINE))
    assert set(HEADS) == set(re.findall(r"^\| `([^`]+)` \| [^|]* \| [^|]* \|$", PAGE, flags=re.MULTILINE))


def test_the_page_says_which_methods_know_no_others() -> None:
    (listed,) = re.findall(r"all methods but (.*?),\s+which learn their classes", PAGE, flags=re.DOTALL)
    assert set(re.findall(r"`([^`]+)`", listed)) == {
        name for name, method in METHODS.items() if not method.open
    }


def test_the_page_shows_the_example_file() -> None:
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def fit" in block
    )
    assert EXAMPLE.read_text(encoding="utf-8").endswith(f"\n{code}")


def test_every_argument_of_a_method_is_explained() -> None:
    (names,) = re.findall(r"`Method\(([\w, ]+)\)` also says", PAGE)
    assert names.split(", ") == list(Method.__dataclass_fields__)


def test_the_example_does_what_it_says(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, method),) = runpy.run_path(str(EXAMPLE))["METHODS"].items()
    monkeypatch.setitem(METHODS, name, method)
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    settings: dict[str, Any] = {"model": str(clip_folder), "device": "cpu", "shots": 2}
    fitted = FewShotClassifier(method=name, weight=1.0, **settings).fit(paths, labels)
    fitted.save(tmp_path / "kept")
    without = FewShotClassifier(method=name, weight=0.0, **settings).fit(paths, labels)
    zero_shot = FewShotClassifier(method="zero-shot", **settings).fit(paths, labels)
    np.testing.assert_allclose(without.predict_proba(paths), zero_shot.predict_proba(paths), rtol=1e-4)
    assert fitted.score(paths, labels) > zero_shot.score(paths, labels)
    with pytest.raises(ConfigError, match=r"weight '1\.5': expected a share from 0 to 1"):
        FewShotClassifier(method=name, weight=1.5, **settings)
    monkeypatch.delitem(METHODS, name)
    loaded = FewShotClassifier.load(tmp_path / "kept", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(paths), fitted.predict_proba(paths))
    assert loaded.method == name
