"""Cross-validation in the place of a test part: against fits by hand, with nothing seen that is judged, resumed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from runs import names, read

from blocklora import FewShotClassifier
from blocklora.core.errors import ConfigError, DataError
from blocklora.methods import Fit, Prepared
from blocklora.methods.auto import auto
from blocklora.methods.auto.plan import AutoPlan
from blocklora.metrics import cross_validated_interval
from blocklora.report import read_metrics
from blocklora.run import fitting
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run

CV: dict[str, Any] = {"test": "cross-validation"}


def probe(model: Path, **more: Any) -> dict[str, Any]:
    return {"model": str(model), "method": "linear-probe", "c": 10.0, "seed": 1, "device": "cpu"} | CV | more


@pytest.fixture(scope="module")
def judged(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on all 36 photos."""
    return fit_run(str(photos), tmp_path_factory.mktemp("runs") / "cv", **probe(clip_folder))[0]


def folds_of(run: Path) -> list[list[dict[str, Any]]]:
    """Return the rows of split.json by the fold that judged them."""
    rows, found = read(run / "split.json")["test"], []
    for n in read(run / "metrics.json")["cross_validation"]["n_judged"]:
        found.append(rows[:n])
        rows = rows[n:]
    assert not rows
    return found


def test_every_image_is_judged_once_and_all_are_fitted_to(judged: Path) -> None:
    split, metrics = read(judged / "split.json"), read(judged / "metrics.json")
    assert sorted(row["image"] for row in split["test"]) == sorted(row["image"] for row in split["train"])
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (36, 0, 36)
    assert [len(fold) for fold in folds_of(judged)] == metrics["cross_validation"]["n_judged"]
    for fold in folds_of(judged):
        assert {row["label"] for row in fold} == {0, 1, 2}
    found = metrics["cross_validation"]
    assert [n + m for n, m in zip(found["n_fitted"], found["n_judged"], strict=True)] == [36] * 5
    interval = cross_validated_interval(found["n_correct"], found["n_judged"], found["n_fitted"])
    assert metrics["accuracy_interval"] == list(interval)
    assert metrics["accuracy"] == sum(found["n_correct"]) / 36
    assert metrics["shipped"] is None
    assert "by the images of its fold" in metrics["selection"]["test images"]
    assert not any("identical, byte for byte" in note for note in metrics["notes"])
    assert read(judged / "config.json")["test"] == "cross-validation"
    assert read_metrics(judged / "metrics.json").cross_validation is not None
    page = (judged / "report.html").read_text(encoding="utf-8")
    assert "Not measured: every fold would make other sets" in page
    assert "Measured by 5-fold cross-validation" in page
    assert "tested by cross-validation on 36 images" in page


def test_the_answers_are_those_of_fits_by_hand(judged: Path, clip_folder: Path, photos: Path) -> None:
    with open(judged / "predictions.csv", encoding="utf-8-sig", newline="") as file:
        said = {row["image"]: row["predicted"] for row in csv.DictReader(file)}
    assert len(said) == 36
    folds = folds_of(judged)
    for fold in folds:
        others = [row for other in folds if other is not fold for row in other]
        own = FewShotClassifier(model=clip_folder, method="linear-probe", c=10.0, seed=1, device="cpu")
        own.fit([photos / row["image"] for row in others], [row["class_name"] for row in others])
        answers = own.predict([photos / row["image"] for row in fold]).tolist()
        assert answers == [said[row["image"]] for row in fold]


def test_its_own_images_measure_it_no_more(judged: Path) -> None:
    with pytest.raises(DataError, match="was fitted to all images, the test images among them"):
        evaluate_run(judged, device="cpu")


class _KilledError(BaseException):
    """What a killed process does not do: go on."""


def watch(monkeypatch: pytest.MonkeyPatch, kill_at: int = 0) -> list[tuple[set[str], Any]]:
    """Record the images that each fit was given, and its deadline; stop before the n-th."""
    given: list[tuple[set[str], Any]] = []
    real = fitting.Fitting.fit

    def fit(self: Any, prepared: Prepared, checkpoint: Any, deadline: Any, n_test: int) -> Fit:
        if len(given) + 1 == kill_at:
            raise _KilledError
        task = prepared.task
        given.append(({example.image for example in (*task.train, *task.val)}, deadline))
        return real(self, prepared, checkpoint, deadline, n_test)

    monkeypatch.setattr(fitting.Fitting, "fit", fit)
    return given


def test_no_fit_is_given_what_it_judges_and_each_has_its_share_of_the_time(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = watch(monkeypatch)
    out, metrics = fit_run(str(photos), tmp_path / "run", **probe(clip_folder, shots=4, time_limit="1h"))
    assert len(given) == 6
    for (images, deadline), fold in zip(given, folds_of(out), strict=False):
        assert not images & {row["image"] for row in fold}
        assert 0.9 * 600 < deadline.seconds <= 600
    assert len(given[-1][0]) == 24
    assert (metrics.n_train, metrics.n_val, metrics.evaluation.n_test) == (12, 12, 24)
    assert metrics.shipped is not None  # validation images were kept apart, and are fitted to at last
    assert metrics.shipped.n_images == 24
    assert read(out / "split.json")["fitted_to"] == ["train", "val"]


def test_a_run_that_was_killed_goes_on_with_the_missing_folds(
    judged: Path, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        watch(patch, kill_at=4)
        with pytest.raises(_KilledError):
            fit_run(str(photos), out, **probe(clip_folder))
    assert [name for name in names(out) if name.startswith("checkpoint")] == [
        f"checkpoint.fold-{number}.safetensors" for number in range(3)
    ]
    given = watch(monkeypatch)
    fit_run(str(photos), out, resume=True, **probe(clip_folder))
    assert len(given) == 3  # two folds, and all images
    assert names(out) == names(judged)
    for name in ("predictions.csv", "class_features.safetensors"):
        if (judged / name).exists():
            assert (out / name).read_bytes() == (judged / name).read_bytes()


def test_auto_chooses_in_every_fold_anew(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "first_plan", lambda *_: AutoPlan(("zero-shot", "gda"), 1e6))
    settings = probe(clip_folder, method="auto", shots=3)
    del settings["c"]
    _, metrics = fit_run(str(photos), tmp_path / "run", **settings)
    assert metrics.cross_validation is not None
    assert len(metrics.cross_validation.kept) == len(metrics.cross_validation.n_judged)
    assert "They kept " in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_data_that_cannot_be_cut_is_refused(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"twemoji: has a test part of \d+ images"):
        fit_run("twemoji", tmp_path / "run", **probe(clip_folder))
    one = [next(folder.glob("*.png")) for folder in sorted(photos.iterdir()) if folder.is_dir()]
    table = tmp_path / "one.csv"
    table.write_text(
        "image,label\n" + "".join(f"{path},{path.parent.name}\n" for path in one), encoding="utf-8"
    )
    with pytest.raises(DataError, match="every class has one image, so none can be kept out and judged"):
        fit_run(str(table), tmp_path / "run", **probe(clip_folder))
    with pytest.raises(ConfigError, match="test 'leave-one-out': expected cross-validation"):
        fit_run(str(photos), tmp_path / "run", **probe(clip_folder, test="leave-one-out"))
    assert not (tmp_path / "run").exists() or names(tmp_path / "run") == []
