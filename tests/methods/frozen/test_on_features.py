from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blocklora.clip import Clip, class_features, image_features, pixels, tokenize
from blocklora.core.device import Compute
from blocklora.data import open_image
from blocklora.methods import Fitted, Task
from blocklora.methods.frozen import on_features
from blocklora.methods.frozen.on_features import (
    FeatureBatches,
    accuracy,
    labels_of,
    picture_features,
    text_embeddings,
    written_classes,
)

CPU = torch.device("cpu")


def test_plain_features_are_those_of_the_tower(clip: Clip, task_of: Callable[..., Task]) -> None:
    task = task_of(clip)
    found = picture_features(task.train, clip, Compute(CPU, "fp32"), passes=2)
    values = torch.stack([pixels(open_image(example.source), clip.processor) for example in task.train])
    torch.testing.assert_close(found[0], image_features(clip.model, values), rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0], found[1])
    assert labels_of(task.train).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_feature_depends_on_seed_pass_and_picture_alone(clip: Clip, task_of: Callable[..., Task]) -> None:
    task = task_of(clip)
    compute = Compute(CPU, "fp32")

    def features(examples: object, passes: int, seed: int) -> torch.Tensor:
        return picture_features(examples, clip, compute, augment="crop-flip", passes=passes, seed=seed)  # type: ignore[arg-type]

    three = features(task.train, 3, 5)
    assert three.shape == (3, 6, 16)
    torch.testing.assert_close(features(task.train[:2], 2, 5), three[:2, :2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(three[0], three[1], atol=1e-4)
    assert not torch.allclose(features(task.train, 1, 6)[0], three[0], atol=1e-4)
    torch.testing.assert_close(three.norm(dim=-1), torch.ones(3, 6))


def test_features_on_disk_are_told_apart_by_all_they_depend_on(
    clip: Clip, task_of: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, compute = task_of(clip), Compute(CPU, "fp32")
    ways = [
        {},
        {"passes": 2},
        {"augment": "crop", "seed": 1},
        {"augment": "crop", "seed": 2},
        {"augment": "crop-flip", "seed": 1},
        {"augment": "crop", "seed": 1, "smallest": 0.2},
    ]
    expected = [picture_features(task.train, clip, compute, **way) for way in ways]  # type: ignore[arg-type]
    monkeypatch.setenv("BLOCKLORA_FEATURES", str(tmp_path))
    for _ in range(2):
        for way, features in zip(ways, expected, strict=True):
            assert torch.equal(picture_features(task.train, clip, compute, **way), features)  # type: ignore[arg-type]
        assert len(list(tmp_path.iterdir())) == len(ways)
    monkeypatch.setattr(on_features, "_run", None)  # nothing is computed any more
    assert torch.equal(picture_features(task.train, clip, compute, passes=2), expected[1])


@pytest.mark.parametrize("draw", ["turns", "mixed"])
def test_batches(draw: str) -> None:
    features = torch.arange(2 * 5).view(2, 5, 1).float()
    labels = torch.arange(5)
    batches = FeatureBatches(features, labels, batch_size=2, seed=0, draw=draw)  # type: ignore[arg-type]
    assert batches.an_epoch == 3
    for epoch in range(4):
        given = [batches.batch(3 * epoch + number) for number in range(3)]
        values = torch.cat([value for value, _ in given]).flatten()
        of = torch.cat([label for _, label in given])
        assert len(values) == 5
        assert (values % 5).tolist() == of.tolist()
        if draw == "turns":
            assert sorted(of.tolist()) == [0, 1, 2, 3, 4]
            assert (values // 5).unique().tolist() == [epoch % 2]
    assert torch.equal(batches.batch(4)[0], batches.batch(4)[0])
    assert FeatureBatches(features, labels, batch_size=99, seed=0).an_epoch == 1


def test_text_embeddings_are_the_towers_outputs(clip: Clip, task_of: Callable[..., Task]) -> None:
    task = task_of(clip)
    expected = clip.model.get_text_features(input_ids=task.tokens).pooler_output
    torch.testing.assert_close(text_embeddings(task, clip), expected)
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)


def test_an_ensemble_is_averaged(
    clip: Clip, task_of: Callable[..., Task], fit_method: Callable[..., Fitted]
) -> None:
    task = task_of(clip)
    sentences = [f"a drawing of the {name}" for name in task.class_names]
    other, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    both = replace(task, ensemble=(task.tokens, other))
    units = [class_features(clip.model, tokens) for tokens in both.ensemble]
    mean = (units[0] + units[1]) / (units[0] + units[1]).norm(dim=1, keepdim=True)
    torch.testing.assert_close(written_classes(both, clip), mean)
    assert torch.equal(written_classes(task, clip), units[0])
    raw = [clip.model.get_text_features(input_ids=tokens).pooler_output for tokens in both.ensemble]
    torch.testing.assert_close(text_embeddings(both, clip), ((raw[0] + raw[1]) / 2).detach())
    zero_shot = fit_method("zero-shot", both, clip).class_features
    torch.testing.assert_close(zero_shot, mean)
    head = fit_method("tip-adapter", both, clip, passes=1, alpha=0.0, beta=1.0).head
    assert head is not None
    torch.testing.assert_close(head.tensors["class_features"], mean)
    taskres = fit_method("taskres", both, clip, passes=1, epochs=1, alpha=0.0).class_features
    torch.testing.assert_close(taskres, torch.nn.functional.normalize(raw[0] + raw[1], dim=-1).detach())
