"""What was measured is fitted to all images, and that is shipped; the figures stay those of the measurement."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ALIKE, Log, names, read, settings
from safetensors.numpy import load_file

from blocklora import FewShotClassifier
from blocklora.core.deadline import Deadline
from blocklora.core.errors import DataError, RunError
from blocklora.data import Example, FewShotSplit
from blocklora.export.card import run_card
from blocklora.export.check import images_to_check
from blocklora.methods import fit_config
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run
from blocklora.run.load import load_run
from blocklora.run.predict import Asked, predict_images
from blocklora.run.refit import kept_back


class StopInSecond(Log):
    """Stops the second fit as Ctrl-C does."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """Interrupt."""
        if self.parts:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def refit(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the room's fixture, refitted."""
    return fit_run(
        str(photos), tmp_path_factory.mktemp("runs") / "refit", refit=True, **settings(clip_folder)
    )[0]


def test_the_figures_are_those_of_the_measured_classifier(run: Path, refit: Path) -> None:
    assert (refit / "predictions.csv").read_bytes() == (run / "predictions.csv").read_bytes()
    one, other = read(run / "metrics.json"), read(refit / "metrics.json")
    for name in ("accuracy", "nll", "temperature", "n_train", "n_val", "choices", "mistakes"):
        assert other[name] == one[name]
    assert one["shipped"] is None
    assert other["shipped"]["n_images"] == 12 + 12 + 9
    assert read(refit / "split.json")["fitted_to"] == ["train", "val", "test"]
    assert "fitted_to" not in read(run / "split.json")
    assert names(refit) == names(run)
    for name in ALIKE:
        assert (refit / name).read_bytes() != (run / name).read_bytes()
    page = (refit / "report.html").read_text(encoding="utf-8")
    assert "All figures here are of a classifier fitted to 12 training images." in page
    assert "to all 33 images, test images included" in page
    assert "test images included" not in (run / "report.html").read_text(encoding="utf-8")


def test_what_is_shipped_is_the_fit_to_all_images(refit: Path, clip_folder: Path, photos: Path) -> None:
    split = read(refit / "split.json")
    rows = [row for part in ("train", "val", "test") for row in split[part]]
    paths, labels = [photos / row["image"] for row in rows], [row["class_name"] for row in rows]
    prompt = read(refit / "config.json")["prompt"]
    own = FewShotClassifier(model=clip_folder, seed=1, device="cpu", iterations=4, lr=1e-2, prompt=prompt)
    expected = own.fit(paths, labels).predict_proba(paths[:5])
    loaded = FewShotClassifier.load(refit, device="cpu")
    temperature = read(refit / "metrics.json")["temperature"]  # where nothing validates it is 1
    np.testing.assert_allclose(
        np.log(loaded.predict_proba(paths[:5])) * temperature
        - np.log(loaded.predict_proba(paths[:5])).max(axis=1, keepdims=True) * temperature,
        np.log(expected) - np.log(expected).max(axis=1, keepdims=True),
        atol=1e-4,
    )
    assert read(refit / "classifier.json")["temperature"] == temperature
    known = load_file(refit / "evidence.safetensors")
    assert known["training/features"].shape[0] == 33
    assert not any(name.startswith("held_out/") for name in known)


def test_it_promises_nothing_that_needs_images_it_has_not_seen(refit: Path, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))[:2]
    for asked in (Asked(coverage=0.9), Asked(false_alarms=0.05)):
        with pytest.raises(RunError, match="keeps no answers to images that were kept out of training"):
            list(predict_images(load_run(refit), files, asked))
    assert len(list(predict_images(load_run(refit), files, Asked(explain=True)))) == 2


def test_its_own_images_measure_it_no_more(refit: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="after the measurement its classifier was fitted to all images"):
        evaluate_run(refit, device="cpu")
    seen, new = tmp_path / "seen", tmp_path / "seen" / "red_square" / "new.png"
    shutil.copytree(photos, seen)
    Image.new("RGB", (20, 20), (200, 10, 10)).save(new)
    metrics = evaluate_run(refit, str(seen), device="cpu")
    assert metrics.evaluation.n_test == 36 - 33 + 1
    assert any("left out, because the run was trained" in note for note in metrics.notes)


def test_an_export_says_so_and_validates_nothing_on_them(refit: Path, run: Path) -> None:
    assert images_to_check(run).source == "validation"
    assert images_to_check(refit).source == "training"
    card = run_card(refit, use="", library="x")
    assert "was fitted afterwards, with what was chosen, to all 33 images" in card
    split = read(refit / "split.json")
    counts = Counter(row["label"] for part in ("train", "val", "test") for row in split[part])
    assert set(counts.values()) == {11}
    assert card.count("| 11 |") == 3


def test_a_second_fit_that_was_stopped_goes_on_to_the_same_bits(
    refit: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(own), out, refit=True, progress=StopInSecond(), **settings(clip_folder))
    assert {"checkpoint.safetensors", "checkpoint.refit.safetensors"} <= set(names(out))
    assert "metrics.json" not in names(out)
    with pytest.raises(RunError, match="was started with refit = True, not None"):
        fit_run(str(own), out, resume=True, **settings(clip_folder))
    log = Log()
    fit_run(str(own), out, refit=True, resume=True, progress=log, **settings(clip_folder))
    assert log.parts == ["what was chosen, fitted to all 33 images"]
    assert names(out) == names(refit)
    for name in ("predictions.csv", *ALIKE):
        assert (out / name).read_bytes() == (refit / name).read_bytes()


def test_test_images_that_were_replaced_stop_the_second_fit(
    clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    own, out = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, own)
    kinds = settings(clip_folder)
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(own), out, refit=True, progress=StopInSecond(), **kinds)
    split = read(out / "split.json")
    used = {row["image"] for part in ("train", "val") for row in split[part]}
    tested = next(path for path in sorted(own.rglob("*.png")) if path.relative_to(own).as_posix() not in used)
    tested.write_bytes((own / split["train"][0]["image"]).read_bytes())
    with pytest.raises(RunError, match="made with other settings or other images"):
        fit_run(str(own), out, refit=True, resume=True, **kinds)


@pytest.mark.parametrize(
    ("method", "options", "share"),
    [("block-lora", {}, 0.5), ("tip-adapter", {}, 4 / 5), ("auto", {}, 0.15 + 0.05 * 4)],
)
def test_the_first_fit_leaves_time_for_the_second(method: str, options: dict[str, int], share: float) -> None:
    images = tuple(Example(str(n), 0, Path(str(n))) for n in range(16))
    drawn = FewShotSplit(images[:4], images[4:8], images[8:])
    config = fit_config(model="tiny", method=method, device="cpu", **options)
    assert kept_back(None, config, drawn) is None
    deadline = kept_back(Deadline(1000.0), config, drawn)
    assert deadline is not None
    assert deadline.reserved == pytest.approx(1000 * share, rel=1e-3)
    few = replace(drawn, test=images * 100)
    at_most = kept_back(Deadline(1000.0), fit_config(model="tiny", method="auto", device="cpu"), few)
    assert at_most is not None
    assert at_most.reserved == pytest.approx(500, rel=1e-3)
