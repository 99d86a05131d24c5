"""From many images to their features: order, unreadable ones, memory that runs out, and what the store changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_task import CPU, QUICK, fit
from torch import Tensor

from blocklora.classifier import FeatureStore, at_once, encode, encode_images
from blocklora.clip import ImageTower, image_features, load_image_tower, pixels
from blocklora.core.device import Compute
from blocklora.data import Source
from blocklora.methods import Job

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def tower(clip_folder: Path) -> ImageTower:
    return load_image_tower(str(clip_folder))


@pytest.fixture
def images() -> list[tuple[str, Source]]:
    return [(colour, Image.new("RGB", (40, 40), colour)) for colour in COLOURS]


def test_order_batches_and_unreadable_ones(
    tower: ImageTower, tmp_path: Path, images: list[tuple[str, Source]]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("hello", encoding="utf-8")
    done: list[int] = []
    encoded = encode_images(
        [images[0], ("broken.jpg", broken), *images[1:]],
        lambda values: image_features(tower.model, values),
        tower.processor,
        device=CPU,
        batch_size=2,
        on_batch=done.append,
    )
    assert encoded.kept == [0, 2, 3, 4]
    assert [bad.image for bad in encoded.unreadable] == ["broken.jpg"]
    assert encoded.unreadable[0].reason.startswith("broken.jpg: this is not an image")
    assert done == [2, 4, 5]
    values = torch.stack([pixels(Image.new("RGB", (40, 40), colour), tower.processor) for colour in COLOURS])
    torch.testing.assert_close(encoded.features, image_features(tower.model, values), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [0, 2])
def test_nothing_readable(tower: ImageTower, tmp_path: Path, n: int) -> None:
    gone = [("gone", tmp_path / "gone.png")] * n
    encoded = encode_images(gone, tower.model, tower.processor, device=CPU)
    assert (len(encoded.features), encoded.kept, len(encoded.unreadable)) == (0, [], n)


def test_a_batch_that_does_not_fit_is_halved(tower: ImageTower, images: list[tuple[str, Source]]) -> None:
    sizes = []

    def forward(values: Tensor) -> Tensor:
        sizes.append(len(values))
        if len(values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return image_features(tower.model, values)

    found = encode_images(images[:3], forward, tower.processor, device=CPU)
    assert sizes == [3, 2, 1, 1, 1]
    expected = encode_images(
        images[:3], lambda values: image_features(tower.model, values), tower.processor, device=CPU
    )
    torch.testing.assert_close(found.features, expected.features, rtol=1e-5, atol=1e-6)


def test_other_errors_and_single_images_are_not_halved(
    tower: ImageTower, images: list[tuple[str, Source]]
) -> None:
    def fail(message: str) -> Any:
        def forward(values: Tensor) -> Tensor:
            raise RuntimeError(message)

        return forward

    with pytest.raises(RuntimeError, match="another"):
        encode_images(images, fail("another"), tower.processor, device=CPU)
    with pytest.raises(RuntimeError, match="out of memory"):
        encode_images(images[:1], fail("CUDA out of memory"), tower.processor, device=CPU)


def test_at_once() -> None:
    assert at_once(torch.device("cuda")) > at_once(CPU) > 0


@pytest.mark.parametrize("method", ["block-lora", "layer-norm", "zero-shot"])
def test_a_store_changes_nothing_but_time(
    job: Job, tmp_path: Path, images: list[tuple[str, Source]], method: str
) -> None:
    classifier, store = fit(job, method, **QUICK[method]).classifier, FeatureStore(tmp_path / "kept")
    adapted = encode(classifier, images, job.compute).features
    both = encode(classifier, images, job.compute, zero_shot=True).features
    assert torch.equal(adapted, both[:, 0])
    assert torch.equal(both[:, 0], both[:, 1]) == (method == "zero-shot")
    for _ in range(2):
        assert torch.equal(encode(classifier, images, job.compute, store=store).features, adapted)
        known = encode(classifier, images, job.compute, store=store, zero_shot=True)
        assert torch.equal(known.features, both)
        assert (known.kept, known.unreadable) == ([0, 1, 2, 3], [])
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert encode(classifier, [], job.compute, store=store, zero_shot=True).kept == []
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = encode(classifier, [*images, ("broken.png", broken)], job.compute, store=store, zero_shot=True)
    assert torch.equal(found.features, both)
    assert [bad.image for bad in found.unreadable] == ["broken.png"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_known_features_are_progress_too(job: Job, tmp_path: Path, images: list[tuple[str, Source]]) -> None:
    classifier, store = fit(job, "zero-shot").classifier, FeatureStore(tmp_path)
    for _ in range(2):
        done: list[int] = []
        encode(classifier, images, job.compute, batch_size=4, store=store, on_batch=done.append)
        assert done == [4]


def test_the_precision_is_that_of_the_compute(job: Job, images: list[tuple[str, Source]]) -> None:
    classifier = replace(fit(job, "zero-shot").classifier, engine="plain")
    fine = encode(classifier, images, job.compute).features
    coarse = encode(classifier, images, Compute(CPU, "bf16")).features
    assert coarse.dtype == torch.float32
    assert 0 < float((fine - coarse).abs().max()) < 0.05
