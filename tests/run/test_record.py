"""What a run says of itself: how everything was chosen, and what to mind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import Log, read, settings

from blocklora.cli.console import print_metrics
from blocklora.core.choices import Choice
from blocklora.report import RunMetrics, json_text, metrics_json, read_metrics
from blocklora.run.fit import fit_run

RUN = {"shots", "seed", "prompt", "protocol", "temperature"}


def fit(data: Path, out: Path, model: Path, **more: Any) -> RunMetrics:
    return fit_run(str(data), out, **settings(model, **more))[1]


def by(metrics: RunMetrics) -> dict[str, str]:
    found: dict[str, str] = metrics_json(metrics)["selected_by"]
    return found


def test_nothing_but_the_temperature_is_chosen_by_block_lora(run: Path) -> None:
    facts, config = read(run / "metrics.json"), read(run / "config.json")
    chosen = facts["selected_by"]
    assert chosen.keys() == facts["choices"].keys()
    assert chosen.keys() >= RUN | {"kept step", "lr", "iterations", "targets", "dropout", "engine"}
    assert [name for name, how in chosen.items() if how == "validation"] == ["temperature"]
    for name in ("lr", "iterations", "shots", "seed", "prompt", "targets"):
        assert facts["choices"][name]["value"] == config[name]
    reasons = {name: choice["reason"] for name, choice in facts["choices"].items()}
    assert (reasons["lr"], reasons["dropout"]) == ("given", "the method's default")


def test_alpha_and_beta_of_tip_adapter(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    free = fit(photos, tmp_path / "a", clip_folder, method="tip-adapter")
    assert {by(free)[name] for name in ("alpha", "beta", "temperature")} == {"validation"}
    assert free.choices["alpha"].n_images == 12
    assert isinstance(free.choices["alpha"].value, float)
    half = fit(photos, tmp_path / "b", clip_folder, method="tip-adapter", alpha=1.5)
    assert (by(half)["alpha"], by(half)["beta"]) == ("fixed", "validation")
    assert half.choices["alpha"] == Choice(1.5, "fixed", "given")
    assert half.choices["beta"].candidates * 20 <= free.choices["beta"].candidates
    both = fit(photos, tmp_path / "c", clip_folder, method="tip-adapter", alpha=1.5, beta=2.0)
    assert (by(both)["alpha"], by(both)["beta"]) == ("fixed", "fixed")


def test_c_of_the_linear_probe(
    clip_folder: Path, photos: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    free = fit(photos, tmp_path / "a", clip_folder, method="linear-probe")
    assert by(free)["c"] == "validation"
    assert "C" not in free.choices
    assert free.choices["c"].candidates > 1
    given = fit(photos, tmp_path / "b", clip_folder, method="linear-probe", c=0.5)
    assert given.choices["c"] == Choice(0.5, "fixed", "given")
    bare = make_photos(tmp_path / "photos", n=4)
    without = fit(bare, tmp_path / "c", clip_folder, method="linear-probe", shots=None)
    assert by(without)["c"] == "validation"
    assert without.choices["c"].reason == "cross-validated on the training images"


def test_the_kept_epoch(
    clip_folder: Path, photos: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    short = {"method": "tip-adapter-f", "epochs": 3, "lr": 1e-3}
    given = settings(clip_folder, **short)
    del given["iterations"]
    _, metrics = fit_run(str(photos), tmp_path / "a", **given)
    assert by(metrics)["kept step"] == "validation"
    assert metrics.choices["kept step"].n_images == 12
    bare = make_photos(tmp_path / "photos", n=4)
    _, metrics = fit_run(str(bare), tmp_path / "b", **(given | {"shots": None}))
    assert by(metrics)["kept step"] == "fixed"


# ---- warnings


def test_a_flat_loss_is_a_warning(
    clip_folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = fit(photos, tmp_path / "run", clip_folder, iterations=10, lr=1e-9)
    (warning,) = [text for text in read(tmp_path / "run" / "metrics.json")["warnings"] if "loss" in text]
    assert "The training loss stayed flat: nothing was learned. Try a higher learning rate (--lr)" in warning
    assert warning in metrics_json(metrics)["warnings"]
    print_metrics(metrics_json(metrics), tmp_path / "run")
    assert f"warning: {warning}" in " ".join(capsys.readouterr().out.split())
    assert "stayed flat" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_diverged_loss_is_a_warning(run: Path) -> None:
    metrics = read_metrics(run / "metrics.json")
    rising = [{**point, "loss": float(place)} for place, point in enumerate(metrics.history * 2, start=1)]
    texts = metrics_json(replace(metrics, history=tuple(rising)))["warnings"]
    assert any("training diverged. Try a lower learning rate" in text for text in texts)


def test_a_class_without_a_test_image_and_a_high_calibration_error_are_warnings(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    make_photos(tmp_path / "parted" / "train", n=4)
    test = make_photos(tmp_path / "parted" / "test", n=2)
    for path in (test / "green disc").iterdir():
        path.unlink()
    metrics = fit(tmp_path / "parted", tmp_path / "run", clip_folder, shots=None, iterations=30, lr=1e-2)
    texts = metrics_json(metrics)["warnings"]
    assert any("1 of 3 classes has no test image: green disc." in text for text in texts)
    assert any("calibration error" in text for text in texts) == (metrics.evaluation.ece > 0.2)


# ---- the files


def test_metrics_hold_no_matrix_and_no_more_than_some_paths(run: Path) -> None:
    facts = read(run / "metrics.json")
    assert "confusion" not in facts
    assert all(len(row) == 3 for row in facts["confusion_counts"])
    assert len(facts["confusion_counts"]) <= facts["n_test"]
    assert json.loads(json_text(facts)) == facts


def test_the_report_of_many_classes_is_small(clip_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for label in range(120):
        (tmp_path / "many" / f"class {label}").mkdir(parents=True)
        for number in range(2):
            image = Image.new("RGB", (32, 32), (label * 2, 250 - 2 * label, number * 9))
            image.save(tmp_path / "many" / f"class {label}" / f"{number}.png")
    out, metrics = fit_run(
        str(tmp_path / "many"), tmp_path / "run", **settings(clip_folder, method="zero-shot"), progress=Log()
    )
    assert metrics.evaluation.n_classes == 120
    n_cells = 120 * 120
    assert (out / "metrics.json").stat().st_size < 6 * n_cells
    assert (out / "report.html").read_text(encoding="utf-8").count("<td") < n_cells
