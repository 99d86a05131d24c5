"""Every kind of head and of tower comes out of ONNX and of numpy as it comes out of the classifier, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from small_task import QUICK

from blocklora.classifier import HEADS, Head, Member, mixture_head
from blocklora.core.errors import ConfigError
from blocklora.export.adapter import write_adapter
from blocklora.export.arrays import write_arrays
from blocklora.export.checkpoint import write_checkpoint
from blocklora.export.facts import facts_of
from blocklora.export.onnx.graph import pixels_graph, set_temperature
from blocklora.run.load import load_run, load_towers

KINDS = {
    "linear-probe": "linear",
    "tip-adapter": "cache",
    "clip-adapter": "bottleneck",
    "layer-norm": "cosine",
    "maple": "cosine",
}
"""Methods that have every kind of head, new weights, and learned vectors beside an image."""


def expected(classifier: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel values, and what a classifier says of them."""
    values = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return values.numpy(), classifier.probabilities(classifier.image_features(values))


def test_every_kind_is_tried() -> None:
    assert set(KINDS.values()) | {"conditional", "mixture"} == set(HEADS)


@pytest.mark.parametrize("method", KINDS)
def test_numpy_says_what_the_classifier_says(
    method: str, saved: Callable[..., Path], consumer: Any, tmp_path: Path
) -> None:
    loaded = load_run(saved(method, **QUICK[method]), device="cpu")
    assert loaded.classifier.head.kind == KINDS[method]
    facts = write_arrays(
        tmp_path, loaded.classifier, facts_of(loaded.classifier, loaded.labels, "numpy", "fp32")
    )
    values, own = expected(loaded.classifier)
    weights, head = dict(np.load(tmp_path / "tower.npz")), dict(np.load(tmp_path / "head.npz"))
    features = consumer("tower").image_features(values, weights, facts.tower)
    assert features.dtype == np.float32
    found = consumer("heads").probabilities(features, facts.to_json(), head)
    np.testing.assert_allclose(found, own, atol=1e-5)


@pytest.mark.parametrize("method", ["tip-adapter", "clip-adapter", "maple"])
def test_onnx_says_what_the_classifier_says(method: str, saved: Callable[..., Path]) -> None:
    classifier = load_run(saved(method, **QUICK[method]), device="cpu").classifier
    values, own = expected(classifier)
    graph = pixels_graph(classifier)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities, features = session.run(None, {"pixel_values": values})
    np.testing.assert_allclose(probabilities, own, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    set_temperature(graph, 1e6)
    flat = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(flat.run(None, {"pixel_values": values[:1]})[0], 1 / 3, atol=1e-3)


@pytest.fixture(scope="module")
def mixture(saved: Callable[..., Path]) -> Any:
    """A classifier that mixes a head on adapted features with one on the base model's."""
    classifier = load_run(saved("layer-norm", **QUICK["layer-norm"]), device="cpu").classifier
    width = classifier.zero_shot_features.shape[1]
    weight = 5 * torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    members = (
        Member(classifier.head, 0.7, 2.0, base=False),
        Member(
            Head("linear", {"weight": weight, "bias": torch.tensor([0.0, 0.5, 1.0])}), 0.3, 0.5, base=True
        ),
    )
    found = replace(classifier, head=mixture_head(members), temperature=1.5)
    found.head.check(3, width)
    assert found.reads_both
    return found


def test_a_mixture_comes_out_of_numpy(mixture: Any, consumer: Any, tmp_path: Path) -> None:
    facts = write_arrays(tmp_path, mixture, facts_of(mixture, ["a", "b", "c"], "numpy", "fp32"))
    values, own = expected(mixture)
    adapted, base = (
        consumer("tower").image_features(values, dict(np.load(tmp_path / name)), facts.tower)
        for name in ("tower.npz", "base_tower.npz")
    )
    assert np.abs(adapted - base).max() > 1e-4
    head = dict(np.load(tmp_path / "head.npz"))
    np.testing.assert_allclose(
        consumer("heads").probabilities(adapted, facts.to_json(), head, base), own, atol=1e-5
    )


def test_a_mixture_comes_out_of_onnx(mixture: Any) -> None:
    values, own = expected(mixture)
    graph = pixels_graph(mixture)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"pixel_values": values})[0], own, atol=1e-5)


def test_other_formats_have_no_place_for_a_mixture(
    mixture: Any, saved: Callable[..., Path], tmp_path: Path
) -> None:
    _, clip = load_towers(saved("layer-norm", **QUICK["layer-norm"]), device="cpu")
    facts = facts_of(mixture, ["a", "b", "c"], "hf", "fp32")
    for write in (
        lambda: write_checkpoint(tmp_path, mixture, clip, facts),
        lambda: write_adapter(tmp_path, mixture, tmp_path),
    ):
        with pytest.raises(ConfigError, match="mixes several heads, which this format has no place for"):
            write()


def test_a_head_that_runs_the_text_tower_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load_run(saved("cocoop", **QUICK["cocoop"]), device="cpu")
    facts = facts_of(loaded.classifier, loaded.labels, "numpy", "fp32")
    for write in (
        lambda: write_arrays(tmp_path, loaded.classifier, facts),
        lambda: pixels_graph(loaded.classifier),
    ):
        with pytest.raises(
            ConfigError, match="'cocoop' cannot be exported: it runs the text tower for every image"
        ):
            write()


def test_learned_vectors_are_no_checkpoint(saved: Callable[..., Path], tmp_path: Path) -> None:
    loaded, clip = load_towers(saved("maple", **QUICK["maple"]), device="cpu")
    facts = facts_of(loaded.classifier, loaded.labels, "hf", "fp32")
    with pytest.raises(ConfigError, match="no class of transformers reads learned vectors beside an image"):
        write_checkpoint(tmp_path, loaded.classifier, clip, facts)


def test_numpy_knows_no_other_activation(saved: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load_run(saved("linear-probe"), device="cpu")
    config = loaded.classifier.base.model.vision_model.config
    before, config.hidden_act = config.hidden_act, "silu"
    try:
        with pytest.raises(ConfigError, match="with activation silu; expected an image tower of CLIP"):
            write_arrays(
                tmp_path, loaded.classifier, facts_of(loaded.classifier, loaded.labels, "numpy", "fp32")
            )
    finally:
        config.hidden_act = before


def test_gelu_is_torchs(consumer: Any) -> None:
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(consumer("tower").gelu(x), expected, atol=1e-6)
