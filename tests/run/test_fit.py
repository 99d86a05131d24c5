"""Runs from a data set to a RUN folder, and what must never happen on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blocklora import FewShotClassifier
from blocklora import estimator as classifier
from blocklora.core.errors import ConfigError, DataError, ModelError, RunError
from blocklora.data import Example
from blocklora.run import fit as runs
from blocklora.run.fit import evaluate_run, fit_run

PROMISED_METRICS = {
    "accuracy", "zero_shot_accuracy", "n_test", "n_classes", "shots", "seed", "method", "trainable_parameters",
    "selection", "ece", "train_seconds", "peak_memory_bytes",
}  # fmt: skip


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    trained = {} if more.get("method") == "zero-shot" else {"iterations": 4, "lr": 1e-2}
    return {"model": str(folder), "shots": 4, "seed": 1, "device": "cpu"} | trained | more


class Log:
    """Remembers what it was told of progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.done: list[tuple[int, int]] = []

    def step(self, step: int, total: int, loss: float, lr: float) -> None:
        self.steps.append((step, total))

    def encoded(self, done: int, total: int) -> None:
        self.done.append((done, total))


@pytest.fixture(scope="module")
def run(clip_folder: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    assert fit_run(str(photos), out, **settings(clip_folder))[0] == out
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_holds_what_is_promised(run: Path, photos: Path) -> None:
    assert sorted(p.name for p in run.iterdir()) == [
        "adapter", "class_features.safetensors", "classifier.json", "config.json", "metrics.json", "report.html",
        "split.json",
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
    for name in ("split.json", "class_features.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (run / name).read_bytes()


def test_evaluate_again(run: Path, clip_folder: Path, photos: Path) -> None:
    log = Log()
    metrics, before = evaluate_run(run, device="cpu", progress=log), read(run / "metrics.json")
    for name in ("accuracy", "zero_shot_accuracy", "n_test", "confusion_counts"):
        assert metrics[name] == before[name]
    assert metrics["ece"] == pytest.approx(before["ece"], rel=1e-9)
    assert log.done[-1] == (9, 9)


def test_evaluate_on_other_pictures(run: Path, make_photos: Callable[..., Path], tmp_path: Path) -> None:
    other = make_photos(tmp_path / "other", n=3)
    assert evaluate_run(run, str(other), device="cpu")["n_test"] == 9  # all: it has no test part of its own
    shutil.rmtree(other / "blue-cross")
    assert evaluate_run(run, str(other), device="cpu")["n_test"] == 6
    (other / "green disc").rename(other / "yellow")
    with pytest.raises(
        DataError, match=r"class 'yellow' is not one that the run knows: blue-cross, green disc, red_square\."
    ):
        evaluate_run(run, str(other), device="cpu")


def test_evaluate_when_pictures_are_gone(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", n=8)
    out, _ = fit_run(str(photos), tmp_path / "run", **settings(clip_folder, method="zero-shot"))
    (photos / read(out / "split.json")["test"][0]["image"]).unlink()
    with pytest.raises(DataError, match="of the run's 6 test pictures are no longer there"):
        evaluate_run(out, device="cpu")


def test_test_pictures_are_not_touched_before_training_has_ended(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_while_training: set[str] = set()
    training_is_over = []
    real_train = FewShotClassifier.train

    def train(self: FewShotClassifier, *arguments: Any, **more: Any) -> Any:
        fitted = real_train(self, *arguments, **more)
        training_is_over.append(True)
        return fitted

    def watch(module: Any) -> None:
        real = module.open_image

        def open_image(source: Any, **more: Any) -> Any:
            if not training_is_over:
                opened_while_training.add(Path(source).relative_to(photos).as_posix())
            return real(source, **more)

        monkeypatch.setattr(module, "open_image", open_image)

    import blocklora.classifier.pictures

    import blocklora.training.images

    watch(blocklora.classifier.pictures)
    watch(blocklora.training.images)
    monkeypatch.setattr(FewShotClassifier, "train", train)
    out, _ = fit_run(str(photos), tmp_path / "run", **settings(clip_folder))
    split = read(out / "split.json")
    names = {part: {item["image"] for item in split[part]} for part in ("train", "val", "test")}
    assert opened_while_training == names["train"] | names["val"]
    assert not opened_while_training & names["test"]


def test_folders_that_may_not_be_used(run: Path, clip_folder: Path, photos: Path, tmp_path: Path) -> None:
    def fit(out: Path, **more: Any) -> dict[str, Any]:
        return fit_run(str(photos), out, **(settings(clip_folder) | more))[1]

    with pytest.raises(RunError, match="holds a finished run; choose another --out, or delete it"):
        fit(run)
    assert fit(run, resume=True) == read(run / "metrics.json")
    with pytest.raises(RunError, match=r"was started with lr = 0\.01, not 0\.5"):
        fit(run, resume=True, lr=0.5)
    with pytest.raises(RunError, match="there is no run to resume"):
        fit(tmp_path / "new", resume=True)
    (tmp_path / "thesis.docx").write_text("precious", encoding="utf-8")
    with pytest.raises(RunError, match="this folder is not empty and holds no run"):
        fit(tmp_path)
    with pytest.raises(RunError, match="this is a file"):
        fit(tmp_path / "thesis.docx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.docx"]


def test_a_failed_start_leaves_nothing(photos: Path, clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        fit_run(str(photos), tmp_path / "run", **settings(tmp_path))
    with pytest.raises(DataError, match="this path does not exist"):
        fit_run(str(tmp_path / "nowhere"), tmp_path / "run", **settings(clip_folder))
    with pytest.raises(ConfigError):
        fit_run(str(photos), tmp_path / "run", **settings(clip_folder, prompt="no place for a name"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_goes_on_to_the_same_bits(
    run: Path,
    clip_folder: Path,
    make_photos: Callable[..., Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "photos"
    shutil.copytree(photos, own)

    class Stop(Log):
        def step(self, step: int, total: int, loss: float, lr: float) -> None:
            import signal

            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit_run(str(own), out, progress=Stop(), **settings(clip_folder))
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.safetensors",
        "checkpoint.start.json",
        "config.json",
        "split.json",
    ]
    with pytest.raises(RunError, match="holds an unfinished run; add --resume to go on with it"):
        fit_run(str(own), out, **settings(clip_folder))
    first = own / read(out / "split.json")["train"][0]["image"]
    content = first.read_bytes()
    first.write_bytes((own / read(out / "split.json")["train"][1]["image"]).read_bytes())
    with pytest.raises(RunError, match="the pictures have changed since this run was started"):
        fit_run(str(own), out, resume=True, **settings(clip_folder))
    first.write_bytes(content)
    fit_run(str(own), out, resume=True, **settings(clip_folder))
    for name in ("class_features.safetensors", "adapter/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert not (out / "checkpoint.safetensors").exists()


def test_unreadable_and_doubled_pictures_are_told(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", n=4)
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "parted" / part)
    broken = tmp_path / "parted" / "test" / "red_square" / "0.png"
    broken.write_text("hello", encoding="utf-8")
    (tmp_path / "parted" / "train" / "red_square" / "1.png").write_text("hello!", encoding="utf-8")
    _, metrics = fit_run(str(tmp_path / "parted"), tmp_path / "run", **settings(clip_folder, shots=None))
    assert (metrics["n_train"], metrics["n_test"]) == (11, 11)
    assert [bad["image"] for bad in metrics["unreadable"]] == [
        "train/red_square/1.png",
        "test/red_square/0.png",
    ]
    assert any("10 test images are identical, byte for byte" in note for note in metrics["notes"])
    assert metrics["selection"]["temperature"] == "1: no validation images"


def test_no_readable_test_picture(
    clip_folder: Path, make_photos: Callable[..., Path], tmp_path: Path
) -> None:
    make_photos(tmp_path / "parted" / "train", n=2)
    for path in make_photos(tmp_path / "parted" / "test", n=1).rglob("*.png"):
        path.write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="none of the 3 test pictures can be read"):
        fit_run(str(tmp_path / "parted"), tmp_path / "run", **settings(clip_folder, method="zero-shot"))


def test_the_default_folder_says_what_it_is(
    clip_folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = Log()
    out, metrics = fit_run(str(photos), None, progress=log, **settings(clip_folder))
    assert out == Path("runs/photos-block-lora-4shot-seed1")
    assert log.steps[-1] == (4, 4)
    assert log.done[-1] == (metrics["n_test"], metrics["n_test"])


def test_mistakes_are_the_surest_wrong_answers() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    examples = [Example(name, 0, Path(name)) for name in "abcd"]
    rows = runs._mistakes(examples, np.array([1, 1, 0, 0]), probabilities, ["x", "y"])
    assert [(row.image, row.label, row.predicted) for row in rows] == [
        ("a", "y", "x"),
        ("c", "x", "y"),
    ]
    assert rows[0].top == (("x", 0.9), ("y", 0.1))


def test_a_damaged_run(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    (broken / "split.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"split\.json: cannot be read"):
        evaluate_run(broken, device="cpu")
    assert classifier.DEFAULT_MODEL == "openai/clip-vit-base-patch16"
