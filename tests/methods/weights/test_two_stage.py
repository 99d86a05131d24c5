"""2SFS, against plain torch on a copy of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from plain_training import cosine, is_layer_norm, train_a_copy
from small_task import classes_of, fit, train_pixels

from blocklora.clip import class_features, image_features
from blocklora.methods import Job

LAYER_NORMS = (6 + 5) * 2 * 32


def test_it_trains_layer_norms_and_then_the_classes(job: Job) -> None:
    values, labels = train_pixels(job), torch.tensor([example.label for example in job.task.train])
    fitted = fit(job, "2sfs", iterations=5, lr=1e-2, augment="none")
    assert fitted.trainable_parameters == LAYER_NORMS + 3 * 16
    model = train_a_copy(job, is_layer_norm, steps=3, lr=1e-2, decay=1e-2)
    images = image_features(model, values)
    torch.testing.assert_close(fitted.classifier.image_features(values), images, rtol=1e-2, atol=2e-3)
    classes = torch.nn.Parameter(class_features(model, job.task.tokens))
    optimizer = torch.optim.AdamW([classes], lr=1e-2, weight_decay=1e-2)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = cosine(1e-2, step, 2)
        logits = job.scale * images @ F.normalize(classes, dim=-1).T
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
    expected = F.normalize(classes.detach(), dim=-1)
    torch.testing.assert_close(classes_of(fitted), expected, rtol=1e-2, atol=2e-3)


def test_with_its_first_stage_alone_it_is_layer_norm_tuning(job: Job) -> None:
    one = fit(job, "2sfs", iterations=3, lr=1e-2, first_stage=1.0)
    other = fit(job, "layer-norm", iterations=3, lr=1e-2)
    assert torch.equal(classes_of(one), classes_of(other))
    weights = one.classifier.image.weights
    assert all(torch.equal(weights[name], value) for name, value in other.classifier.image.weights.items())
