"""A run of a mixture, from the images to the report and back: what reads two towers is used as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import Log, read, settings

from blocklora.core.errors import ConfigError
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from blocklora.run.predict import Asked, predict_images
from blocklora.run.transfer import base_to_new


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, photos: Path, clip_folder: Path) -> Path:
    """A run of Block-LoRA and GDA together."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    return fit_run(str(photos), out, **settings(clip_folder, method="block-lora-gda", folds=2))[0]


def test_a_mixture_is_measured_again_to_the_same_figures(mixed: Path) -> None:
    before, again = read(mixed / "metrics.json"), evaluate_run(mixed)
    assert again.evaluation.accuracy == before["accuracy"]
    assert again.evaluation.nll == pytest.approx(before["nll"])
    assert load_run(mixed).classifier.reads_both


def test_a_mixture_predicts_with_sets_and_unknown_images(mixed: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:5]
    found = list(predict_images(load_run(mixed), files, Asked(coverage=0.8, false_alarms=0.1, explain=True)))
    assert len(found) == len(files)


def test_a_mixture_knows_no_other_classes(tmp_path: Path, photos: Path, clip_folder: Path) -> None:
    for method in ("auto", "block-lora-gda"):
        with pytest.raises(ConfigError, match=f"method '{method}': learns the classes that it saw"):
            base_to_new(str(photos), tmp_path / "x", model=str(clip_folder), method=method)


def test_auto_tells_what_it_tried(tmp_path: Path, photos: Path, clip_folder: Path) -> None:
    log = Log()
    run, metrics = fit_run(
        str(photos), tmp_path / "auto", progress=log, model=str(clip_folder), shots=4, seed=1, device="cpu",
        method="auto", time_limit=5,
    )  # fmt: skip
    facts = read(run / "metrics.json")
    assert [row["name"] for row in facts["candidates"]][:4] == ["zero-shot", "prototypes", "gda", "proker"]
    assert sum(row["kept"] for row in facts["candidates"]) == sum(one.kept for one in metrics.candidates) >= 1
    assert facts["choices"]["kept"]["by"] == "validation"
    assert log.parts[0].startswith("zero-shot (1 of ")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What was tried?" in page
    assert "log loss on held-out images" in page
    assert not list(run.glob("checkpoint*"))
    assert np.isfinite(metrics.evaluation.nll)
