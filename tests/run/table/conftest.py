"""A finished run of three classes that takes a moment to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocklora import FewShotClassifier


@pytest.fixture(scope="session")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = sorted(photos.glob("*/*.png"))
    classifier = FewShotClassifier(model=str(clip_folder), method="zero-shot", device="cpu")
    classifier.fit(paths, [path.parent.name for path in paths])
    classifier.save(folder := tmp_path_factory.mktemp("table") / "run")
    return folder
