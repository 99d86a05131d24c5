"""The folder of an ONNX export: two models that share one file of weights, checked against the run.

M = images, N = classes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, checker, compose, helper, load, save
from onnxruntime.quantization import quantize_dynamic

from blocklora.classifier import Classifier
from blocklora.clip import crop_size, pixels
from blocklora.core.errors import ConfigError
from blocklora.data import Example, open_for_model
from blocklora.export.check import agreement
from blocklora.export.facts import Facts, Preprocess
from blocklora.export.onnx.graph import (
    OPSET,
    PIXELS,
    PROBABILITIES,
    pixels_graph,
    quiet,
    set_temperature,
)
from blocklora.export.onnx.preprocess import preprocess_graph
from blocklora.export.sets import set_thresholds, true_strangeness
from blocklora.metrics import fit_temperature

__all__ = ["write_onnx"]

_IMAGE, _PIXELS, _WEIGHTS = "image.onnx", "pixels.onnx", "weights.bin"
_SMALL, _PAGE = 1024, 4096  # bytes of a tensor that stays inside the model; where others begin
_AT_ONCE = 16


def write_onnx(
    folder: Path,
    classifier: Classifier,
    facts: Facts,
    images: Sequence[Example],
    source: str,
    expected: NDArray[np.float64],
) -> Facts:
    """Write both models and their weights.

    Args:
        folder: An empty folder.
        classifier: On the CPU.
        facts: What is known beforehand.
        images: Images to compare on (M).
        source: Which they are; of ``validation`` images the labels set temperature and thresholds of fp16, int8.
        expected: What the run says of them (M, N).

    Returns:
        The facts, with the temperature and how far the export is from the run.

    Raises:
        ConfigError: It cannot be exported, or is too far from the run.
    """
    if facts.precision == "int8" and source == "bundled":
        raise ConfigError(
            "precision 'int8': expected the run's own training or validation images, on which it is checked, and they "
            "are not there; put them back, or use fp32 or fp16."
        )
    model = pixels_graph(classifier, half=facts.precision == "fp16")
    if facts.precision == "int8":
        model = _quantised(model)
    values = _pixel_values(classifier, images)
    found = _run(model, values)
    if facts.precision != "fp32" and source == "validation":
        facts = _calibrated(facts, found, np.array([example.label for example in images]))
        set_temperature(model, facts.temperature)
        found = _run(model, values)
    how_far = agreement(expected, found, source)
    how_far.require(facts.precision)
    facts = replace(facts, check=how_far.to_json())
    _write(folder, model, _with_preprocessing(model, facts.preprocess), facts.to_json())
    return facts


def _calibrated(facts: Facts, found: NDArray[np.float64], labels: NDArray[np.int64]) -> Facts:
    """Return the facts with temperature and thresholds of a model in lower precision, from its own answers (M, N)."""
    logits = np.log(np.maximum(found, 1e-30)) * facts.temperature
    return replace(
        facts,
        temperature=fit_temperature(logits, labels),
        sets=set_thresholds(true_strangeness(logits, labels)),
    )


def _pixel_values(classifier: Classifier, images: Sequence[Example]) -> NDArray[np.float32]:
    """Return pixel values (M, 3, S, S), as the run itself computes them."""
    processor = classifier.base.processor
    side = crop_size(processor)
    return torch.stack(
        [pixels(open_for_model(e.source, side, name=e.image), processor) for e in images]
    ).numpy()


def _run(model: Any, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities (M, N) that a model gives."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    parts = [
        session.run([PROBABILITIES], {PIXELS: values[start : start + _AT_ONCE]})[0]
        for start in range(0, len(values), _AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.float64)


def _quantised(model: Any) -> Any:
    """Return a model whose matrix products are computed in 8 bits; activations get their ranges as they come."""
    with tempfile.TemporaryDirectory() as work, quiet():
        out = Path(work) / "int8.onnx"
        quantize_dynamic(model, out, op_types_to_quantize=["MatMul"], per_channel=True)
        small = load(out)
    del small.graph.value_info[:]
    return small


def _with_preprocessing(model: Any, how: Preprocess) -> Any:
    """Return the model that takes one RGB image in the place of pixel values."""
    before = compose.add_prefix(
        preprocess_graph(how, model.ir_version, OPSET),
        "preprocess/",
        rename_inputs=False,
        rename_outputs=False,
    )
    whole = compose.merge_models(before, _same_opsets(model, before), io_map=[(PIXELS, PIXELS)])
    for output in whole.graph.output:
        output.type.tensor_type.shape.dim[0].Clear()
        output.type.tensor_type.shape.dim[0].dim_value = 1
    del whole.graph.value_info[:]
    return whole


def _same_opsets(model: Any, other: Any) -> Any:
    """Let another model know the operators of this one."""
    known = {opset.domain for opset in other.opset_import}
    other.opset_import.extend(opset for opset in model.opset_import if opset.domain not in known)
    return model


def _write(folder: Path, by_pixels: Any, by_image: Any, facts: Mapping[str, Any]) -> None:
    """Write two models whose larger tensors stand in one file."""
    places: dict[str, tuple[int, int]] = {}
    with open(folder / _WEIGHTS, "wb") as file:
        for tensor in by_pixels.graph.initializer:
            if len(tensor.raw_data) >= _SMALL:
                file.write(bytes(-file.tell() % _PAGE))
                places[tensor.name] = (file.tell(), len(tensor.raw_data))
                file.write(tensor.raw_data)
    for name, model in ((_PIXELS, by_pixels), (_IMAGE, by_image)):
        for tensor in model.graph.initializer:
            if tensor.name in places:
                offset, length = places[tensor.name]
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", _WEIGHTS), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(value))
        model.producer_name, model.producer_version = "blocklora", str(facts["blocklora"])
        helper.set_model_props(
            model,
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()},
        )
        save(model, folder / name)
        checker.check_model(folder / name)
