"""Runs from a data set to a RUN folder, and what must never happen on the way."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import ALIKE, Log, names, read, settings
from safetensors.torch import load_file, save_file

from blocklora import FewShotClassifier
from blocklora.clip.lean import LeanTower
from blocklora.core import files
from blocklora.core.errors import ConfigError, DataError, ModelError, RunError
from blocklora.data import index_cache
from blocklora.methods.adapters import common
from blocklora.report import metrics_json
from blocklora.run import fit as runs
from blocklora.run import fitting, results
from blocklora.run.evaluate import evaluate_run
from blocklora.run.fit import fit_run
from blocklora.run.transfer import AdaptedTowers
from blocklora.training.memory.limits import plan_memory
from blocklora.training.step import Plan

PROMISED_METRICS = {
    "accuracy", "zero_shot_accuracy", "n_test", "n_classes", "shots", "seed", "method", "trainable_parameters",
    "selection", "ece", "train_seconds", "peak_memory_bytes",
}  # fmt: skip


class Stop(Log):
    """Stops training as Ctrl-C does."""

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        """Interrupt."""
        import signal

        signal.raise_signal(signal.SIGINT)


def test_the_folder_holds_what_is_promised(run: Path, photos: Path) -> None:
    assert names(run) == [
        "adapter", "class_features.safetensors", "classifier.json", "config.json", "confusion.csv",
        "evidence.safetensors", "metrics.json", "predictions.csv", "report.html", "split.json",
    ]  # fmt: skip
    metrics, config, split = read(run / "metrics.json"), read(run / "config.json"), read(run / "split.json")
    assert metrics.keys() >= PROMISED_METRICS
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"], metrics["n_classes"]) == (12, 12, 9, 3)
    assert config["data"] == str(photos)
    assert config["iterations"] == 4
    assert [len(split[part]) for part in ("train", "val", "test")] == [12, 12, 9]
    assert split["train"][0].keys() == {"image", "label", "class_name", "sha256"}
    assert metrics["files"]["train"]["first"] == [item["image"] for item in split["train"]]
    assert "looked at once, after training had ended" in metrics["selection"]["test images"]
    assert metrics["selection"]["temperature"].endswith(": fitted to 12 validation images")
    assert any("--augment crop" in note for note in metrics["notes"])
    assert f"{metrics['accuracy']:.1%}" in (run / "report.html").read_text(encoding="utf-8")


def test_metrics_are_those_of_the_file(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    out, metrics = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, method="zero-shot"))
    assert metrics_json(metrics) == read(out / "metrics.json")


def test_accuracy_is_what_the_saved_classifier_gives(run: Path, photos: Path) -> None:
    test = read(run / "split.json")["test"]
    paths = [photos / item["image"] for item in test]
    loaded = FewShotClassifier.load(run, device="cpu")
    assert (
        loaded.score(paths, [item["class_name"] for item in test]) == read(run / "metrics.json")["accuracy"]
    )


def test_the_same_settings_give_the_same_run(
    run: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    fit_run(str(photos), tmp_path / "b", **settings(clip_folder))
    for name in ("split.json", *ALIKE):
        assert (tmp_path / "b" / name).read_bytes() == (run / name).read_bytes()


def test_test_images_are_not_touched_before_training_has_ended(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: set[str] = set()
    training_is_over = []
    real_fit, real_open = fitting.fit_classifier, open

    def fit(*arguments: Any, **more: Any) -> Any:
        fitted = real_fit(*arguments, **more)
        training_is_over.append(True)
        return fitted

    def watched_open(file: Any, *arguments: Any, **more: Any) -> Any:
        if not training_is_over and isinstance(file, Path) and photos in file.parents:
            opened.add(file.relative_to(photos).as_posix())
        return real_open(file, *arguments, **more)

    monkeypatch.setattr("builtins.open", watched_open)
    monkeypatch.setattr(fitting, "fit_classifier", fit)
    out, _ = fit_run(str(photos), tmp_path / "run", **settings(clip_folder))
    split = read(out / "split.json")
    of = {part: {item["image"] for item in split[part]} for part in ("train", "val", "test")}
    assert opened == of["train"] | of["val"]
    assert not opened & of["test"]


def test_folders_that_may_not_be_used(run: Path, clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    def fit(out: Path, **more: Any) -> dict[str, Any]:
        return metrics_json(fit_run(str(photos), out, **(settings(clip_folder) | more))[1])

    with pytest.raises(RunError, match="holds a finished run; choose another --out, or delete it"):
        fit(run)
    assert fit(run, resume=True) == read(run / "metrics.json")
    with pytest.raises(RunError, match=r"was started with lr = 0\.01, not 0\.5"):
        fit(run, resume=True, lr=0.5)
    with pytest.raises(RunError, match="was started with deterministic = None, not True"):
        fit(run, resume=True, deterministic=True)
    with pytest.raises(RunError, match="there is no run to resume"):
        fit(tmp_path / "new", resume=True)
    (tmp_path / "thesis.docx").write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="this folder is not empty and holds no run"):
        fit(tmp_path)
    with pytest.raises(RunError, match="this is a file"):
        fit(tmp_path / "thesis.docx")
    assert names(tmp_path) == ["thesis.docx"]
    assert (tmp_path / "thesis.docx").read_text(encoding="utf-8") == "precious"


def test_a_failed_start_leaves_nothing(photos: Path, clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        fit_run(str(photos), tmp_path / "run", **settings(tmp_path))
    with pytest.raises(DataError, match="this path does not exist"):
        fit_run(str(tmp_path / "nowhere"), tmp_path / "run", **settings(clip_folder))
    with pytest.raises(ConfigError):
        fit_run(str(photos), tmp_path / "run", **settings(clip_folder, prompt="no place for a name"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [-1, 2**63, 99999999999999999999, 1.0, 1.5, True, "1", None])
def test_a_seed_is_checked_before_anything_is_read_or_written(seed: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"seed '.*': expected a whole number from 0 to"):
        fit_run("nowhere", tmp_path / "run", **settings("nowhere", seed=seed))
    assert list(tmp_path.iterdir()) == []


# ---- failures

WHERE = {"fit_classifier": fitting, "measure": runs}
"""Modules whose names a test replaces; the others are those of ``run.results``."""


@pytest.mark.parametrize("error", [KeyError, MemoryError, KeyboardInterrupt, SystemExit, RecursionError])
@pytest.mark.parametrize(
    "step", ["fit_classifier", "measure", "write_classifier", "_write_report", "write_metrics"]
)
def test_a_failure_before_the_first_checkpoint_frees_the_folder(
    error: type[BaseException],
    step: str,
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("no")

    (tmp_path / "mine").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(WHERE.get(step, results), step, fail)
        for name in ("new", "mine"):
            with pytest.raises(error):
                fit_run(str(photos), tmp_path / name, **settings(clip_folder, method="zero-shot"))
    assert (names(tmp_path), names(tmp_path / "mine")) == (["mine"], [])
    fit_run(str(photos), tmp_path / "mine", **settings(clip_folder, method="zero-shot"))


@pytest.mark.parametrize("step", ["measure", "write_classifier", "_write_report", "write_metrics"])
def test_a_failure_after_training_leaves_a_run_to_resume(
    step: str, run: Path, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    out = tmp_path / "run"
    monkeypatch.setattr(WHERE.get(step, results), step, fail)
    with pytest.raises(OSError, match="no space"):
        fit_run(str(photos), out, **settings(clip_folder))
    assert {"config.json", "split.json", "checkpoint.safetensors"} <= set(names(out))
    assert "metrics.json" not in names(out)
    monkeypatch.undo()
    fit_run(str(photos), out, resume=True, **settings(clip_folder))
    assert names(out) == names(run)
    for name in ("predictions.csv", *ALIKE):
        assert (out / name).read_bytes() == (run / name).read_bytes()


FIT = """
import sys
from pathlib import Path
from blocklora.core.errors import RunError
from blocklora.run import fit

load = fit.prepare
def slow(*arguments):
    print("loading", flush=True)  # this process has the folder
    sys.stdin.readline()  # as slow as the other process wants it
    return load(*arguments)
fit.prepare = slow
data, model, out, seed = sys.argv[1:]
try:
    fit.fit_run(data, Path(out), model=model, method="zero-shot", shots=2, seed=int(seed), device="cpu")
    print("done", flush=True)
except RunError as error:
    print(error, flush=True)
"""


def test_of_two_processes_with_one_folder_one_fits(clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    def start(seed: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", FIT, str(photos), str(clip_folder), str(tmp_path / "run"), str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[2])},
        )  # fmt: skip

    first = start(1)
    assert first.stdout
    assert first.stdout.readline() == "loading\n"
    said, _ = start(2).communicate("\n")
    assert "run: another process is working in this folder" in said
    said, _ = first.communicate("\n")
    assert said == "done\n"
    assert {read(tmp_path / "run" / name)["seed"] for name in ("config.json", "metrics.json")} == {1}
    assert ".lock" not in names(tmp_path / "run")


def test_a_file_system_without_permissions_flushing_and_locks(
    run: Path, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    with monkeypatch.context() as patch:
        patch.setattr(files.FileLock, "acquire", refuse)
        patch.setattr(os, "fsync", refuse)
        patch.setattr(Path, "chmod", refuse)
        fit_run(str(photos), tmp_path / "run", **settings(clip_folder))
    assert names(tmp_path / "run") == names(run)
    assert (tmp_path / "run" / ALIKE[0]).read_bytes() == (run / ALIKE[0]).read_bytes()


# ---- resuming


def test_an_interrupted_run_goes_on_to_the_same_bits(
    run: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    own = tmp_path / "photos"
    shutil.copytree(photos, own)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(own), out, progress=Stop(), **settings(clip_folder))
    assert names(out) == ["checkpoint.safetensors", "checkpoint.start.json", "config.json", "split.json"]
    with pytest.raises(RunError, match="holds an unfinished run; add --resume to go on with it"):
        fit_run(str(own), out, **settings(clip_folder))
    first = own / read(out / "split.json")["train"][0]["image"]
    content = first.read_bytes()
    first.write_bytes((own / read(out / "split.json")["train"][1]["image"]).read_bytes())
    with pytest.raises(RunError, match="the images have changed since this run was started"):
        fit_run(str(own), out, resume=True, **settings(clip_folder))
    first.write_bytes(content)
    fit_run(str(own), out, resume=True, **settings(clip_folder))
    for name in ALIKE:
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert names(out) == names(run)


OF_MODEL = {
    "image tower": "vision_model.post_layernorm.bias",
    "text tower": "text_model.final_layer_norm.bias",
    "projection": "text_projection.weight",
    "scale": "logit_scale",
}


@pytest.mark.parametrize("part", OF_MODEL)
def test_a_run_does_not_go_on_with_other_base_weights(
    part: str, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "clip", tmp_path / "run"
    shutil.copytree(clip_folder, model)
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(photos), out, progress=Stop(), **settings(model))
    tensors = load_file(model / "model.safetensors")
    tensors[OF_MODEL[part]] += 1e-3
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        RunError, match="run: the base model has other weights than when this run was started"
    ):
        fit_run(str(photos), out, resume=True, **settings(model))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("package", ["torch", "transformers", "blocklora"])
def test_a_run_does_not_go_on_with_other_versions(
    package: str, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(photos), out, progress=Stop(), **settings(clip_folder))
    assert read(out / "config.json")["origin"].keys() == {"model_sha256", "versions"}
    other = {**runs.numeric_versions(), package: "99.1"}
    monkeypatch.setattr(runs, "numeric_versions", lambda: other)
    with pytest.raises(
        RunError, match=rf"run: was started with {package} \S+ \(now 99\.1\), and would not end"
    ):
        fit_run(str(photos), out, resume=True, **settings(clip_folder))


def _little_memory(*arguments: Any) -> Any:
    """The planner's choice where there is memory for two images at a time."""
    found = plan_memory(*arguments)
    return replace(found, plans=(Plan(micro_batch=2), *found.plans))


@pytest.mark.parametrize("killed_early", [False, True])
def test_the_plan_of_the_first_start_is_kept_whatever_memory_is_free_later(
    killed_early: bool, clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(common, "plan_memory", _little_memory)
        fit_run(str(photos), whole, **settings(clip_folder))
        with pytest.raises(KeyboardInterrupt):
            fit_run(str(photos), out, progress=Stop(), **settings(clip_folder))
    if killed_early:  # before the first checkpoint: nothing but the start is known
        (out / "checkpoint.safetensors").unlink()
    fit_run(str(photos), out, resume=True, **settings(clip_folder))
    assert read(out / "metrics.json")["engine"]["plan"]["micro_batch"] == 2
    for name in ALIKE:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


# ---- images, engine, notes


def test_engine_plain_uses_no_lean_tower(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a lean tower was made")

    monkeypatch.setattr(LeanTower, "__init__", refuse)
    given = settings(clip_folder, engine="plain", prompt=["a photo of a {}.", "{}"])
    out, metrics = fit_run(str(photos), tmp_path / "run", **given)
    assert metrics.engine["engine"] == "plain"
    assert evaluate_run(out, device="cpu").evaluation == metrics.evaluation
    towers = AdaptedTowers(out, device="cpu")
    towers.classifier(["a", "b"], ["{}", "a {}"])
    FewShotClassifier.load(out, device="cpu").predict([next(photos.rglob("*.png"))])
    with pytest.raises(AssertionError, match="a lean tower was made"):  # the test would notice
        fit_run(str(photos), tmp_path / "lean", **settings(clip_folder, engine="auto"))


def test_unreadable_and_doubled_images_are_told(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", n=4)
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "parted" / part)
    broken = tmp_path / "parted" / "test" / "red_square" / "0.png"
    broken.write_text("hello", encoding="utf-8")
    (tmp_path / "parted" / "train" / "red_square" / "1.png").write_text("hello!", encoding="utf-8")
    _, metrics = fit_run(str(tmp_path / "parted"), tmp_path / "run", **settings(clip_folder, shots=None))
    assert (metrics.n_train, metrics.evaluation.n_test) == (11, 11)
    assert [bad.image for bad in metrics.unreadable] == ["train/red_square/1.png", "test/red_square/0.png"]
    assert any("10 test images are identical, byte for byte" in note for note in metrics.notes)
    temperature = metrics.choices["temperature"]
    assert (temperature.value, temperature.by) == (1.0, "fixed")
    assert "no validation images" in temperature.reason


def test_no_readable_test_image(clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path) -> None:
    make_photos(tmp_path / "parted" / "train", n=2)
    for path in make_photos(tmp_path / "parted" / "test", n=1).rglob("*.png"):
        path.write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="none of the 3 test images can be read"):
        fit_run(str(tmp_path / "parted"), tmp_path / "run", **settings(clip_folder, method="zero-shot"))
    assert names(tmp_path) == ["parted"]


def test_no_image_is_hashed_twice(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = index_cache._sha256

    def count(file: Path) -> str:
        hashed.append(str(file))
        return real(file)

    monkeypatch.setattr(index_cache, "_sha256", count)
    monkeypatch.setattr(index_cache, "_FRESH_NS", -1)  # files are never too new to be remembered
    photos = make_photos(tmp_path / "photos", n=8)
    fit_run(str(photos), tmp_path / "run", **settings(clip_folder, method="zero-shot"))
    assert len(hashed) == len(set(hashed))


def test_the_default_folder_says_what_it_is(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log()
    out, metrics = fit_run(str(photos), None, progress=log, **settings(clip_folder))
    assert out == Path("runs/photos-block-lora-4shot-seed1")
    assert log.steps[-1] == (4, 4)
    assert log.done[-1] == (metrics.evaluation.n_test, metrics.evaluation.n_test)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("golden_retriever", "golden retriever"), "have the same prompt to the text tower"),
        (("Star", "star"), "have the same prompt to the text tower"),
        (("t-shirt", "t shirt"), "are the same words, written differently"),
        (("a long name " * 9 + "red", "a long name " * 9 + "blue"), "have the same prompt to the text tower"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_named(
    classes: tuple[str, str], words: str, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    (listed := tmp_path / "names.txt").write_text("\n".join([*classes, "circle"]), encoding="utf-8")
    given = settings(clip_folder, method="zero-shot", class_names=str(listed))
    _, metrics = fit_run(str(photos), tmp_path / "run", **given)
    (note,) = [note for note in metrics.notes if "tell them apart" in note]
    assert words in note
    assert all(repr(name.strip()) in note or repr(name) in note for name in classes)


# ---- the bundled model


@pytest.mark.parametrize("method", ["block-lora", "clip-lora"])
def test_the_bundled_model_has_a_learning_rate_of_its_own(method: str, photos: Path, tmp_path: Path) -> None:
    short = {
        "model": "tiny",
        "method": method,
        "shots": 1,
        "device": "cpu",
        "iterations": 1,
        "augment": "none",
    }
    out, metrics = fit_run(str(photos), tmp_path / "a", **short)
    assert read(out / "config.json")["lr"] == 4e-3
    assert (metrics.choices["lr"].value, metrics.choices["lr"].reason) == (
        4e-3,
        "the default for the bundled model",
    )
    out, metrics = fit_run(str(photos), tmp_path / "b", **short, lr=1e-3)
    assert read(out / "config.json")["lr"] == 1e-3
    assert metrics.choices["lr"].reason == "given"
