"""Features of the frozen towers: what they depend on, what is kept of them, and batches of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import classes_of, fit, train_pixels

from blocklora.classifier import FeatureStore
from blocklora.clip import class_features, image_features, tokenize
from blocklora.core.choices import Choice
from blocklora.methods import Job
from blocklora.methods.frozen import features as features_module
from blocklora.methods.frozen.batches import FeatureBatches, Keeper
from blocklora.methods.frozen.features import accuracy, class_embeddings, frozen_features, labels_of


def test_plain_features_are_those_of_the_tower(job: Job) -> None:
    found = frozen_features(job, job.task.train, passes=2)
    expected = image_features(job.clip.model, train_pixels(job))
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0], found[1])
    assert labels_of(job.task.train).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_feature_depends_on_seed_pass_and_image_alone(job: Job) -> None:
    def features(n_images: int, passes: int, seed: int) -> torch.Tensor:
        return frozen_features(
            replace(job, seed=seed), job.task.train[:n_images], augment="crop-flip", passes=passes
        )

    three = features(6, 3, 5)
    assert three.shape == (3, 6, 16)
    torch.testing.assert_close(features(2, 2, 5), three[:2, :2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(three[0], three[1], atol=1e-4)
    assert not torch.allclose(features(6, 1, 6)[0], three[0], atol=1e-4)
    torch.testing.assert_close(three.norm(dim=-1), torch.ones(3, 6))


def test_kept_features_are_told_apart_by_all_they_depend_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[tuple[int, dict[str, Any]]] = [
        (0, {}),
        (0, {"passes": 2}),
        (1, {"augment": "crop"}),
        (2, {"augment": "crop"}),
        (1, {"augment": "crop-flip"}),
        (1, {"augment": "crop", "smallest": 0.2}),
    ]

    def features(seed: int, way: dict[str, Any], store: FeatureStore) -> torch.Tensor:
        return frozen_features(replace(job, seed=seed, store=store), job.task.train, **way)

    expected = [features(seed, way, job.store) for seed, way in ways]
    assert list(tmp_path.iterdir()) == []
    store = FeatureStore(tmp_path)
    for _ in range(2):
        for (seed, way), known in zip(ways, expected, strict=True):
            assert torch.equal(features(seed, way, store), known)
        assert len(list(tmp_path.iterdir())) == len(ways)
    monkeypatch.setattr(features_module, "_compute", None)  # nothing is computed any more
    assert torch.equal(features(0, {"passes": 2}, store), expected[1])


@pytest.mark.parametrize("draw", ["turns", "mixed"])
def test_batches(draw: Any) -> None:
    features = torch.arange(2 * 5).view(2, 5, 1).float()
    labels = torch.arange(5)
    batches = FeatureBatches(features, labels, batch_size=2, seed=0, draw=draw)
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


def test_class_embeddings_are_the_text_towers_outputs(job: Job) -> None:
    expected = job.clip.model.get_text_features(input_ids=job.task.tokens).pooler_output
    torch.testing.assert_close(class_embeddings(job), expected)
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)


def test_an_ensemble_is_averaged(job: Job) -> None:
    sentences = [f"a drawing of the {name}" for name in job.task.class_names]
    other, _ = tokenize(sentences, job.clip.tokenizer, job.clip.context_length)
    both = replace(job, task=replace(job.task, ensemble=(job.task.tokens, other)))
    units = [class_features(job.clip.model, tokens) for tokens in both.task.ensemble]
    mean = (units[0] + units[1]) / (units[0] + units[1]).norm(dim=1, keepdim=True)
    torch.testing.assert_close(both.written_classes, mean)
    assert torch.equal(job.written_classes, units[0])
    raw = [job.clip.model.get_text_features(input_ids=tokens).pooler_output for tokens in both.task.ensemble]
    torch.testing.assert_close(class_embeddings(both), ((raw[0] + raw[1]) / 2).detach())
    torch.testing.assert_close(classes_of(fit(both, "zero-shot")), mean)
    torch.testing.assert_close(classes_of(fit(both, "tip-adapter", passes=1, alpha=0.0, beta=1.0)), mean)
    taskres = classes_of(fit(both, "taskres", passes=1, epochs=1, alpha=0.0))
    torch.testing.assert_close(taskres, torch.nn.functional.normalize(raw[0] + raw[1], dim=-1).detach())


def test_the_keeper_keeps_the_latest_best_epoch() -> None:
    tensor = torch.zeros(2)
    # Two epochs are right about both images, one about one: the later of the two best is kept.
    features, labels = torch.eye(2), torch.tensor([0, 1])
    keeper = Keeper([tensor], lambda inputs: inputs * tensor[0], features, labels, an_epoch=2)
    for step, value in enumerate([9.0, 1.0, 9.0, 2.0, 9.0, -1.0]):
        tensor[0] = value
        keeper.after_step(step)
    assert keeper.put_back(3) == Choice(
        2, "validation", "the latest of the best epochs", 2, candidates=3, score=1.0, score_name="accuracy"
    )
    assert tensor[0] == 2.0
    without = Keeper([tensor], lambda inputs: inputs, features[:0], labels[:0], an_epoch=2)
    tensor[0] = 5.0
    without.after_step(1)
    last = without.put_back(1)
    assert (last.value, last.by) == (1, "fixed")
    assert "no validation images" in last.reason
    assert tensor[0] == 5.0
