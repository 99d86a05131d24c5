"""Zero-shot is CLIP itself."""

from __future__ import annotations

import torch
from small_task import classes_of, fit, train_pixels

from blocklora.core.choices import Choice
from blocklora.methods import Job


def test_zero_shot_is_clip_itself(job: Job) -> None:
    fitted = fit(job, "zero-shot")
    values = train_pixels(job)
    together = job.clip.model(input_ids=job.task.tokens, pixel_values=values).logits_per_image
    features = fitted.classifier.image_features(values)
    torch.testing.assert_close(fitted.classifier.logits(features).float(), together, rtol=1e-4, atol=1e-5)
    assert torch.equal(classes_of(fitted), fitted.classifier.zero_shot_features)
    assert fitted.classifier.is_base
    assert fitted.trainable_parameters == 0
    assert fitted.training is None
    assert fitted.choices == {"settings": Choice("none", "fixed", "nothing was trained or chosen")}
