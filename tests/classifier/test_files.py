"""A classifier of every method goes to disk and comes back; what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_task import CPU, QUICK, fit, make_task, train_pixels

from blocklora.classifier import Classifier, read_both_towers, read_classifier, write_classifier
from blocklora.clip import load_clip
from blocklora.core.device import Compute
from blocklora.core.errors import ModelError, RunError
from blocklora.methods import METHODS, Job

LABELS = ["r", "g", "b"]


def write(folder: Path, classifier: Classifier, **more: Any) -> Path:
    write_classifier(folder, classifier, LABELS, {"shots": 2}, {"blocklora": "0"}, **more)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "classifier.json"
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    left = {name: value for name, value in record.items() if value != "gone"}
    path.write_text(json.dumps(left), encoding="utf-8")


@pytest.fixture
def kept(job: Job, tmp_path: Path) -> Path:
    """A Block-LoRA classifier on disk."""
    return write(tmp_path / "kept", fit(job, "block-lora", **QUICK["block-lora"]).classifier)


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize("method", METHODS)
def test_every_method_comes_back(job: Job, tmp_path: Path, method: str) -> None:
    classifier = fit(job, method, **QUICK[method]).classifier.with_temperature(1.7)
    loaded, record = read_classifier(write(tmp_path / "kept", classifier, found_names=("1", "2", "3")))
    both, clip = read_both_towers(tmp_path / "kept")
    values = train_pixels(job)
    expected = classifier.probabilities(classifier.image_features(values))
    for again in (loaded, both):
        np.testing.assert_array_equal(again.probabilities(again.image_features(values)), expected)
        assert (again.method, again.temperature, again.engine) == (method, 1.7, classifier.engine)
        assert (again.class_names, again.prompts) == (classifier.class_names, classifier.prompts)
        assert torch.equal(again.zero_shot_features, classifier.zero_shot_features)
        assert (again.text is None) == (classifier.text is None)
        if again.text and classifier.text:
            assert again.text.words == classifier.text.words
            assert again.text.tensors().keys() == classifier.text.tensors().keys()
    assert clip.sha256 == job.clip.sha256
    assert (record.method, record.labels, record.parameters) == (method, LABELS, {"shots": 2})
    assert record.found_names == ["1", "2", "3"]
    plain = loaded.zero_shot_image_features(values)
    torch.testing.assert_close(plain, classifier.zero_shot_image_features(values))


@pytest.mark.parametrize("towers", ["text", "vision"])
@pytest.mark.parametrize("method", ["block-lora", "clip-lora"])
def test_an_adapter_in_one_tower(job: Job, tmp_path: Path, method: str, towers: str) -> None:
    classifier = fit(job, method, towers=towers, **QUICK[method]).classifier
    loaded, record = read_classifier(write(tmp_path, classifier))
    values = train_pixels(job)
    assert torch.equal(loaded.image_features(values), classifier.image_features(values))
    assert record.image_tower_adapted == (towers == "vision")
    assert (loaded.adapter is None) == (towers == "text")


@pytest.mark.parametrize(
    ("method", "files"),
    [
        ("zero-shot", ["class_features.safetensors", "classifier.json"]),
        ("block-lora", ["adapter", "class_features.safetensors", "classifier.json"]),
        (
            "maple",
            [
                "class_features.safetensors",
                "classifier.json",
                "image_tower.safetensors",
                "text_tower.safetensors",
            ],
        ),
    ],
)
def test_files_are_those_of_the_new_classifier_alone(
    job: Job, kept: Path, method: str, files: list[str]
) -> None:
    (kept / "notes.txt").write_text("mine", encoding="utf-8")
    write(kept, fit(job, method, **QUICK[method]).classifier)
    assert names(kept) == sorted([*files, "notes.txt"])
    if method == "block-lora":
        assert names(kept / "adapter") == ["adapter_config.json", "adapter_model.safetensors"]


def test_what_was_read_can_be_written_again(kept: Path, tmp_path: Path) -> None:
    loaded, _ = read_both_towers(kept)
    again, _ = read_classifier(write(tmp_path / "again", loaded))
    values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.image_features(values), loaded.image_features(values))


def test_the_base_model_must_be_the_same(
    make_clip: Callable[..., Path], make_job: Callable[[Path], Job], tmp_path: Path
) -> None:
    base = make_clip(tmp_path / "base", seed=1)
    write(tmp_path / "kept", fit(make_job(base), "zero-shot").classifier)
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(
        ModelError, match=r"was fitted with this model; if it is elsewhere now, name the place"
    ):
        read_classifier(tmp_path / "kept")
    assert read_classifier(tmp_path / "kept", model=str(moved))[0].base.model_id == str(moved)
    make_clip(base, seed=2)
    with pytest.raises(RunError, match="has another image tower than the one it was fitted with"):
        read_classifier(tmp_path / "kept")


@pytest.fixture
def make_job() -> Callable[[Path], Job]:
    def make(folder: Path) -> Job:
        clip = load_clip(str(folder))
        return Job(make_task(clip), clip, Compute(CPU, "fp32"), 0, "zero-shot")

    return make


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, r"format 99 .* upgrade blocklora"),
        ({"head": {"kind": "magic", "numbers": {}}}, "upgrade blocklora"),
        ({"head": {"kind": "cosine", "numbers": {}}}, "the head's number 'scale' is missing"),
        ({"labels": ["r"]}, "labels, class_names and prompts are of different lengths"),
        ({"temperature": 0.0}, r"temperature is 0\.0; expected a positive number"),
        ({"text_side": "gone"}, r"this classifier is damaged \(.*text_side"),
        ({"format": "gone"}, r"this classifier is damaged \('format'\)"),
    ],
)
def test_a_record_that_is_not_ours(kept: Path, changes: dict[str, Any], message: str) -> None:
    edit(kept, **changes)
    with pytest.raises(RunError, match=message):
        read_classifier(kept)


def test_a_newer_record_may_say_more(kept: Path) -> None:
    edit(kept, colour="blue")
    assert read_classifier(kept)[0].method == "block-lora"


def test_folders_that_hold_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder; expected a RUN folder"):
        read_classifier(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no classifier\.json, so it is not a finished run"):
        read_classifier(tmp_path)


@pytest.mark.parametrize(
    ("method", "file", "message"),
    [
        ("block-lora", "classifier.json", "this classifier is damaged"),
        (
            "block-lora",
            "class_features.safetensors",
            r"class_features\.safetensors: this file cannot be used",
        ),
        ("block-lora", "adapter/adapter_model.safetensors", "this adapter cannot be used"),
        ("block-lora", "adapter/adapter_config.json", "this adapter cannot be read"),
        ("layer-norm", "image_tower.safetensors", r"image_tower\.safetensors: this file cannot be used"),
        ("layer-norm", "text_tower.safetensors", r"text_tower\.safetensors: this file cannot be used"),
        ("cocoop", "text_tower.safetensors", r"text_tower\.safetensors: this file cannot be used"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_damaged_files_are_named(
    job: Job, tmp_path: Path, method: str, file: str, message: str, how: str
) -> None:
    kept = write(tmp_path / "kept", fit(job, method, **QUICK[method]).classifier)
    if how == "gone":
        (kept / file).unlink()
    else:
        (kept / file).write_bytes((kept / file).read_bytes()[:10])
    message = r"holds no classifier\.json" if (file, how) == ("classifier.json", "gone") else message
    with pytest.raises(RunError, match=message):
        read_classifier(kept)


@pytest.mark.parametrize("file", ["image_tower.safetensors", "text_tower.safetensors"])
def test_one_missing_tensor_is_noticed(job: Job, tmp_path: Path, file: str) -> None:
    kept = write(tmp_path / "kept", fit(job, "full", **QUICK["full"]).classifier)
    tensors = load_file(kept / file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, kept / file)
    with pytest.raises(
        RunError, match=rf"it holds {len(tensors)} tensors, where {len(tensors) + 1} were written"
    ):
        read_both_towers(kept)


def test_a_file_in_the_way(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="this is a file; expected a folder"):
        write(tmp_path / "file", fit(job, "zero-shot").classifier)


@pytest.mark.parametrize("error", [SafetensorError("No space left"), OSError(28, "No space left")])
def test_a_full_disk_leaves_the_old_classifier(
    job: Job, kept: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    other = fit(replace(job, seed=5), "block-lora", **QUICK["block-lora"]).classifier

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(other.adapter), "save_pretrained", full)
    with pytest.raises((RunError, OSError), match="No space left"):
        write(kept, other)
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    with pytest.raises((RunError, OSError), match="No space left"):
        write(kept.parent / "new", other)
    assert not (kept.parent / "new").exists() or names(kept.parent / "new") == []
