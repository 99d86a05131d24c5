"""What every method is given, and what it gives back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_task import classes_of, fit, make_task

from blocklora.classifier import Head, ImageChange
from blocklora.clip import Clip, class_features
from blocklora.methods import Job, last_step


def test_shots_are_those_of_the_largest_class(clip: Clip) -> None:
    task = make_task(clip, shots=3)
    assert task.shots == 3
    assert replace(task, train=task.train[2:]).shots == 3


def test_steps_follow_the_shots(clip: Clip) -> None:
    assert [make_task(clip, shots).steps(None, 500) for shots in (1, 4, 16, 20)] == [500, 2000, 8000, 8000]
    assert make_task(clip, 16).steps(7, 500) == 7


def test_a_job_knows_the_models_own_scale_and_the_written_classes(job: Job) -> None:
    assert job.scale == pytest.approx(float(job.clip.model.logit_scale.exp()))
    assert torch.equal(job.written_classes, class_features(job.clip.model, job.task.tokens))
    assert job.device == torch.device("cpu")


def test_the_classifier_of_a_job(job: Job) -> None:
    classifier = job.classifier(job.written_classes)
    assert (classifier.head.kind, classifier.head.numbers) == ("cosine", {"scale": job.scale})
    assert (classifier.class_names, classifier.prompts) == (job.task.class_names, job.task.prompts)
    assert (classifier.method, classifier.precision, classifier.temperature) == ("zero-shot", "fp32", 1.0)
    assert classifier.is_base
    head = Head("linear", {"weight": torch.ones(3, 16), "bias": torch.zeros(3)})
    other = job.classifier(head=head, image=ImageChange(prompts=torch.ones(1, 2, 32)))
    assert other.head is head
    assert not other.is_base
    with pytest.raises(ValueError, match="expected class features or a head"):
        job.classifier()


def test_the_classifier_carries_the_name_of_its_method(job: Job) -> None:
    assert fit(job, "tip-adapter", passes=1).classifier.method == "tip-adapter"


def test_last_step() -> None:
    choices = last_step(12, "CLIP-LoRA")
    assert (choices["kept step"].value, choices["kept step"].by) == (12, "fixed")
    assert "CLIP-LoRA" in choices["settings"].reason


def test_a_classifier_does_not_follow_what_happens_to_the_job_later(job: Job) -> None:
    fitted = fit(job, "zero-shot")
    before = classes_of(fitted).clone()
    fit(job, "full", iterations=1, lr=1e-2)
    assert torch.equal(classes_of(fitted), before)
