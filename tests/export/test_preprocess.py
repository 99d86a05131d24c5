"""Preprocessing inside the graph, and in the exported scripts, is Pillow's as transformers calls it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from blocklora.clip import pixels
from blocklora.core.errors import ConfigError
from blocklora.export.facts import Preprocess
from blocklora.export.onnx.preprocess import preprocess_graph

SIDE = 40
SIZES = [
    (40, 40), (8, 8), (40, 80), (320, 240), (240, 320), (60, 41), (41, 60), (39, 39), (50, 300), (900, 2),
    (1, 1), (1, 50), (333, 332), (145, 211), (37, 592), (37, 593), (224, 40), (40, 41), (700, 300), (3, 700),
]  # fmt: skip
CLIP = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
SIGLIP = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
SIGLIP_2 = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=Image.Resampling.BILINEAR)


def images() -> list[NDArray[np.uint8]]:
    """Return noise and a smooth image of each size, (height, width, 3)."""
    draw = np.random.default_rng(0)
    found = []
    for width, height in SIZES:
        few = Image.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        found.append(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        found.append(np.asarray(few.resize((width, height), Image.Resampling.BICUBIC)))
    return found


@pytest.mark.parametrize("processor", [CLIP, SIGLIP, SIGLIP_2], ids=["clip", "siglip", "siglip2"])
def test_the_graph_is_within_two_levels_of_pillow(processor: Any) -> None:
    how = Preprocess.of(processor)
    graph = preprocess_graph(how, ir_version=10, opset=18)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    level = np.array(how.std)[:, None, None] / how.scale
    moved = []
    for rgb in images():
        expected = pixels(Image.fromarray(rgb), processor).numpy()
        difference = np.abs(session.run(None, {"image": rgb})[0][0] - expected) * level  # in levels of 0..255
        assert difference.max() < 2.01, rgb.shape
        moved.append((difference > 0.01).mean())
    assert np.mean(moved) < (0.001 if how.resample == "bicubic" else 0.02)


@pytest.mark.parametrize("processor", [CLIP, SIGLIP, SIGLIP_2], ids=["clip", "siglip", "siglip2"])
def test_the_script_is_pillow(processor: Any, consumer: Any) -> None:
    how = Preprocess.of(processor)
    facts = {name: getattr(how, name) for name in Preprocess.__dataclass_fields__}
    for rgb in images():
        found = consumer("images").to_pixels(Image.fromarray(rgb), facts)[0]
        np.testing.assert_allclose(found, pixels(Image.fromarray(rgb), processor).numpy(), atol=1e-5)


def test_other_processors_are_refused() -> None:
    for changed in (
        {"size": {"shortest_edge": SIDE + 8}},
        {"resample": Image.Resampling.LANCZOS},
        {"do_normalize": False},
    ):
        settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}} | changed
        with pytest.raises(ConfigError, match="no export writes down"):
            Preprocess.of(CLIPImageProcessorPil(**settings))


def test_unused_constants_are_left_out() -> None:
    square = replace(Preprocess.of(SIGLIP), side=16)
    graph = preprocess_graph(square, ir_version=10, opset=18).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
