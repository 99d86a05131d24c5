from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from blocklora.core.choices import Choice
from blocklora.core.errors import RunError
from blocklora.data.types import Unreadable
from blocklora.metrics import confusion_counts, evaluate, per_class
from blocklora.report import (
    Mistake,
    PartFiles,
    RunMetrics,
    json_text,
    metrics_from_json,
    metrics_json,
    read_metrics,
    write_metrics,
)

PROMISED = {
    "accuracy", "zero_shot_accuracy", "n_test", "n_classes", "shots", "seed", "method", "trainable_parameters",
    "selection", "ece", "train_seconds", "peak_memory_bytes", "selected_by",
}  # fmt: skip


def run_metrics(n_classes=3, n_test=60, **known):
    rng = np.random.default_rng(0)
    labels, before = rng.integers(0, n_classes, (2, n_test))
    probabilities = rng.dirichlet(np.full(n_classes, 0.5), n_test)
    evaluation = evaluate(probabilities, labels, [f"class {i}" for i in range(n_classes)], before)
    return RunMetrics(evaluation, **known)


def full():
    return run_metrics(
        temperature=1.2,
        mistakes=(Mistake("a.jpg", "class 0", "class 1", (("class 1", 0.8), ("class 0", 0.2))),),
        unreadable=(Unreadable("b.jpg", "b.jpg: cut short"),),
        method="block-lora",
        model="tiny",
        dataset="photos",
        ensemble=("a {}", "the {}"),
        shots=16,
        seed=0,
        n_train=48,
        n_val=0,
        trainable_parameters=10,
        total_parameters=100,
        train_seconds=1.5,
        peak_memory_bytes=2**20,
        engine={"engine": "lean", "plan": {"words": "whole batch"}},
        history=({"step": 1, "loss": 2.0, "lr": 0.1}, {"step": 2, "loss": 1.0, "lr": 0.0}),
        choices={
            "lr": Choice(2e-4, "fixed", "given"),
            "alpha, beta": Choice((1.0, 2.0), "validation", "", 12, 200, 0.9, "accuracy"),
        },
        notes=("a note",),
        files={"train": PartFiles.of(["a.jpg"]), "test": PartFiles(60)},
        versions={"torch": "2"},
        created="2026-01-02T03:04:05+00:00",
    )


@pytest.mark.parametrize("metrics", [full(), run_metrics()], ids=["full", "least"])
def test_metrics_survive_the_file(metrics, tmp_path):
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    facts = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert facts == metrics_json(metrics)
    assert facts["format"] == 2
    assert facts.keys() >= PROMISED


def test_sentences_are_made_of_choices():
    facts = metrics_json(full())
    assert facts["selected_by"] == {"lr": "fixed", "alpha, beta": "validation"}
    assert facts["selection"] == {
        "lr": "0.0002: given",
        "alpha, beta": "1 and 2: the best of 200 on 12 validation images (accuracy 90.0%)",
        "test images": "looked at once, after training had ended; nothing was chosen by them",
    }
    assert facts["choices"]["lr"]["value"] == 2e-4


def test_warnings_are_in_the_file():
    flat = tuple({"step": i, "loss": 1.6, "lr": 0.1} for i in range(10))
    facts = metrics_json(replace(full(), history=flat))
    assert any("stayed flat" in warning for warning in facts["warnings"])


def test_a_loss_that_is_not_finite_is_written_as_none(tmp_path):
    metrics = replace(full(), history=({"step": 1, "loss": float("nan"), "lr": 0.1},))
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json").history == ({"step": 1, "loss": None, "lr": 0.1},)


# ---- size


@pytest.mark.parametrize(("n_classes", "n_test", "most"), [(1_000, 10_000, 0.9e6), (5_000, 10_000, 2.5e6)])
def test_many_classes_stay_small(n_classes, n_test, most):
    """A full matrix took 9.6 MB at 1,000 classes and 227 MB at 5,000."""
    labels = np.arange(n_test) % n_classes
    predicted = np.random.default_rng(0).integers(
        0, n_classes, n_test
    )  # nearly all wrong: few pairs happen twice
    names = [f"a class with quite a long name, number {i}" for i in range(n_classes)]
    evaluation = replace(
        run_metrics().evaluation,
        per_class=per_class(labels, predicted, names, labels),
        confusion_counts=confusion_counts(labels, predicted, n_classes),
    )
    files = {"train": PartFiles.of([f"train/{name}/1.jpg" for name in names] * 16)}
    metrics = RunMetrics(evaluation, files=files)
    assert len(json_text(metrics_json(metrics))) < most
    assert len(json_text(metrics.evaluation.to_json())) < most


def test_text_has_a_line_for_each_row():
    facts = {"a": 1, "rows": [[0, 1, 2], [1, 1, 3]], "inner": {"x": [1], "y": None}, "none": [], "of": ["é"]}
    text = json_text(facts)
    assert json.loads(text) == facts
    assert text.splitlines()[2:5] == ['"rows": [', " [0, 1, 2],", " [1, 1, 3]"]
    assert "é" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})


def test_a_file_name_in_no_known_encoding_survives(tmp_path):
    metrics = replace(full(), files={"test": PartFiles.of(["a\udcff.jpg"])})
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics


# ---- earlier and other files


def old_facts():
    """A file as the first version wrote it."""
    facts = metrics_json(full())
    for name in ("format", "choices", "warnings", "confusion_counts", "run"):
        del facts[name]
    confusion = np.zeros((3, 3), int)
    for label, predicted, n in full().evaluation.confusion_counts:
        confusion[label, predicted] = n
    return facts | {
        "confusion": confusion.tolist(),
        "files": {"train": ["a.jpg"], "val": None, "test": 60},
        "selection": {"C": "31.6, given beforehand", "test images": "looked at once"},
        "selected_by": {"C": "fixed"},
    }


def test_an_earlier_file_can_be_read(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(old_facts()), encoding="utf-8")
    found = read_metrics(tmp_path / "metrics.json")
    assert found.evaluation == full().evaluation
    assert found.files == full().files
    assert found.old_selection == {"C": "31.6, given beforehand"}
    assert metrics_json(found)["selected_by"] == {"C": "fixed"}
    assert metrics_from_json(metrics_json(found)) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "m.json: format 3 is later than 2"),
        ({"accuracy": ...}, "m.json: has no accuracy; expected the metrics.json of a run"),
        ({"per_class": ...}, "m.json: has no per_class"),
        ({"per_class": [{"name": "x"}]}, "m.json: has no accuracy_interval"),
        ({"difference": {"interval": [0, 1], "odd": 1}}, "m.json: not as expected"),
        ({"confusion_counts": [[1, 2]]}, "m.json: not as expected"),
        ({"choices": {"lr": {"value": 1, "by": "test"}}}, "m.json: not as expected .*by is 'test'"),
        ({"files": {"train": 3}}, "m.json: not as expected"),
    ],
)
def test_what_is_no_metrics_file_is_refused(change, message):
    facts = {key: value for key, value in (metrics_json(full()) | change).items() if value is not ...}
    with pytest.raises(RunError, match=message):
        metrics_from_json(facts, "m.json")


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[]", "holds no JSON object")])
def test_a_damaged_file_is_named(text, message, tmp_path):
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=f"metrics.json: {message}"):
        read_metrics(tmp_path / "metrics.json")
    with pytest.raises(RunError, match="cannot be read"):
        read_metrics(tmp_path / "absent.json")
