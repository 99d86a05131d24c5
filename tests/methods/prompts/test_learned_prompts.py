"""Where learned vectors start, and how long prompts are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_task import make_task

from blocklora.clip import Clip, class_features
from blocklora.core.errors import ConfigError
from blocklora.methods import Job
from blocklora.methods.prompts.learned_prompts import epochs_of, start_context


def test_the_embedded_words_are_zero_shot(job: Job) -> None:
    prompts, start = start_context(job, "a photo of a", 16)  # the task's: "a photo of a red."
    assert start.shape == (4, 32)
    expected = class_features(job.clip.model, job.task.tokens)
    torch.testing.assert_close(prompts.features(start), expected, rtol=1e-5, atol=1e-6)


def test_random_contexts(job: Job) -> None:
    job = replace(job, seed=3)
    prompts, start = start_context(job, "", 16)
    assert start.shape == (16, 32)
    assert 0.015 < float(start.std()) < 0.025
    assert torch.equal(start, start_context(job, "", 16)[1])
    assert not torch.equal(start, start_context(replace(job, seed=4), "", 16)[1])
    # All but the vectors is the sentence "name." with the start and end of text around it.
    name = job.clip.tokenizer("green.")["input_ids"]
    row = prompts.tokens[1].tolist()
    assert row[0] == name[0]
    assert row[17 : 17 + len(name) - 1] == name[1:]
    message = "n_context '22': expected at most 21, for the text tower reads 24 tokens"
    with pytest.raises(ConfigError, match=message):
        start_context(job, "", 22)


def test_names_that_do_not_fit_are_told(job: Job) -> None:
    long = "a very " + "large " * 20 + "disc"
    job = replace(job, task=replace(job.task, class_names=("red", long)))
    (note,) = start_context(job, "", 4)[0].notes
    assert f"1 class prompts, e.g. that of '{long}', are longer than the 24 tokens" in note


def test_epochs_follow_the_shots(clip: Clip) -> None:
    assert [epochs_of(make_task(clip, shots), None) for shots in (1, 2, 4, 8)] == [50, 100, 100, 200]
    assert epochs_of(make_task(clip), 7) == 7
