"""CoCoOp, against plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_task import fit

from blocklora import FewShotClassifier
from blocklora.classifier import CONDITIONAL
from blocklora.classifier.class_prompts import conditional_logits
from blocklora.clip import load_clip
from blocklora.core.errors import RunError
from blocklora.methods import Job
from blocklora.methods.prompts.learned_prompts import start_context


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_conditional_logits_shift_the_words_by_the_image(job: Job) -> None:
    prompts, start = start_context(job, "a photo of a", 4)
    features, generator = unit(3, seed=1), torch.Generator().manual_seed(2)
    down, down_bias = torch.randn(2, 16, generator=generator), torch.randn(2, generator=generator)
    up, up_bias = torch.randn(32, 2, generator=generator) * 0.1, torch.randn(32, generator=generator) * 0.1
    network = {"down": down, "down_bias": down_bias, "up": up, "up_bias": up_bias}
    found = conditional_logits(features, prompts=prompts, context=start, scale=5.0, **network)
    for row, feature in enumerate(features):
        hidden = [max(0.0, float(down[h] @ feature + down_bias[h])) for h in range(2)]
        shift = torch.stack([up[w, 0] * hidden[0] + up[w, 1] * hidden[1] + up_bias[w] for w in range(32)])
        classes = prompts.features(start + shift)
        torch.testing.assert_close(found[row], 5.0 * classes @ feature, rtol=1e-4, atol=1e-5)


def test_without_a_shift_it_is_zero_shot(job: Job) -> None:
    fitted = fit(job, "cocoop", epochs=1, batch_size=6)  # one step at 1e-5
    head = fitted.classifier.head
    assert head.kind == CONDITIONAL
    assert fitted.trainable_parameters == 4 * 32 + (1 * 16 + 1) + (32 * 1 + 32)
    silent = {
        name: torch.zeros_like(t) if name.startswith(("up", "down")) else t
        for name, t in head.tensors.items()
    }
    features = unit(4, seed=3)
    expected = job.scale * features @ job.written_classes.T
    logits = replace(head, tensors=silent).logits(features).float()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)


def test_it_learns(job: Job) -> None:
    fitted = fit(job, "cocoop", epochs=12, batch_size=3, lr=0.05, augment="none")
    assert fitted.training is not None
    assert fitted.training.losses[-4:].mean() < fitted.training.losses[:4].mean() - 0.05


def test_its_classifier_needs_its_text_tower(
    make_clip: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    base = make_clip(tmp_path / "base", seed=1)
    paths = sorted(photos.glob("*/*.png"))
    options = {"method": "cocoop", "shots": 1, "epochs": 1, "batch_size": 3}
    classifier = FewShotClassifier(model=str(base), device="cpu", **options)
    classifier.fit(paths, [path.parent.name for path in paths]).save(tmp_path / "kept")
    record = json.loads((tmp_path / "kept" / "classifier.json").read_text(encoding="utf-8"))
    assert len(record["text_tower_sha256"]) == 64
    clip = load_clip(str(base))
    with torch.no_grad():
        clip.model.text_projection.weight[0, 0] += 1
    clip.model.save_pretrained(base)
    with pytest.raises(RunError, match="another text tower than the one it was fitted with"):
        FewShotClassifier.load(tmp_path / "kept", device="cpu")
