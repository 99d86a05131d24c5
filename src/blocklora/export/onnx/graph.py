"""From a classifier to an ONNX graph: pixel values in, probabilities and features out.

B = images, S = side of an image, N = classes, D = width of a feature.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from blocklora.classifier import HEADS, Classifier, Member
from blocklora.classifier.heads import mixed_logits
from blocklora.clip import crop_size, image_features, prompted_image_features
from blocklora.core.errors import ConfigError
from blocklora.export.tower import check_head, merged_model

__all__ = ["FEATURES", "OPSET", "PIXELS", "PROBABILITIES", "pixels_graph", "quiet", "set_temperature"]

OPSET = 18
PIXELS, PROBABILITIES, FEATURES = "pixel_values", "probabilities", "features"
_TEMPERATURE = "temperature"
_PLACEHOLDER = (
    0.8765309  # of the temperature, set later: torch leaves out a division by 1, and joins equal constants
)
_MOST_BYTES = 2**31 - 2**24  # of one protobuf message


class _Network(nn.Module):
    """Tower, head and temperature; all but the tower computes in float32."""

    prompts: Tensor | None
    temperature: Tensor

    def __init__(self, classifier: Classifier, tower: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self._members = classifier.head.members or (Member(classifier.head, 1.0, 1.0, base=False),)
        self._dtype, self.tower = dtype, tower.to(dtype)
        self.base = _plain(copy.deepcopy(classifier.base.model)).to(dtype) if classifier.reads_both else None
        for place, member in enumerate(self._members):
            for name, tensor in member.head.tensors.items():
                self.register_buffer(f"head_{place}_{name}", tensor.float().contiguous())
        prompts = classifier.image.prompts
        self.register_buffer("prompts", None if prompts is None else prompts.to(dtype))
        self.register_buffer(_TEMPERATURE, torch.tensor(_PLACEHOLDER))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, N) and unit features (B, D) of pixel values (B, 3, S, S)."""
        pixel_values = pixel_values.to(self._dtype)
        if self.prompts is None:
            features = image_features(self.tower, pixel_values, engine="plain")
        else:
            features = prompted_image_features(self.tower, pixel_values, self.prompts)
        features = plain = F.normalize(features.float(), dim=-1)
        if self.base is not None:
            plain = F.normalize(image_features(self.base, pixel_values, engine="plain").float(), dim=-1)
        each = [
            self._logits(place, member, plain if member.base else features)
            for place, member in enumerate(self._members)
        ]
        weights = [member.weight for member in self._members]
        logits = each[0] if len(each) == 1 else mixed_logits(each, weights)
        return (logits / self.temperature).softmax(dim=1), features

    def _logits(self, place: int, member: Member, features: Tensor) -> Tensor:
        """Return what one head says, divided by its own temperature (B, N)."""
        head = member.head
        tensors = {name: getattr(self, f"head_{place}_{name}") for name in head.tensors}
        return HEADS[head.kind].logits(features, **tensors, **head.numbers) / member.temperature


def _plain(tower: Any) -> Any:
    """Return a tower with the attention that makes the fewest operators."""
    tower.set_attn_implementation("eager")
    return tower


def pixels_graph(classifier: Classifier, *, half: bool = False) -> Any:
    """Return an ONNX model from ``pixel_values`` to ``probabilities`` and ``features``, with any number of images.

    Args:
        classifier: On the CPU.
        half: Whether the tower's weights are float16.

    Raises:
        ConfigError: The method or the model cannot be exported; the message says why.
    """
    check_head(classifier)
    tower = _plain(merged_model(classifier))
    network = _Network(classifier, tower, torch.float16 if half else torch.float32).eval()
    n_bytes = sum(value.nbytes for value in network.state_dict().values())
    if n_bytes > _MOST_BYTES:
        raise ConfigError(
            f"the model has {n_bytes / 1e9:.1f} GB of weights; expected less than 2 GB for ONNX: use --precision fp16, "
            "or --format hf."
        )
    side = crop_size(classifier.base.processor)
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, side, side),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=[PROBABILITIES, FEATURES],
                dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{classifier.base.model_id}: torch cannot write this model as ONNX ({reason}); export it with another "
            "--format."
        ) from error
    model = _without_remarks(program.model_proto)  # type: ignore[union-attr]  # never None with dynamo
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ConfigError(
            f"{classifier.base.model_id}: torch writes this model for a fixed number of images only; export it with "
            "another --format."
        )
    set_temperature(model, classifier.temperature)
    return model


def set_temperature(model: Any, temperature: float) -> None:
    """Change what logits are divided by."""
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == _TEMPERATURE]
    old = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((old * 0 + temperature).astype(old.dtype), _TEMPERATURE))


def _without_remarks(model: Any) -> Any:
    """Take out what torch notes beside each operator: lines of source code, and paths of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, model):
        part.doc_string = ""
        if not isinstance(part, TensorProto):
            del part.metadata_props[:]
    del graph.value_info[:]  # quantising takes them for another graph's
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters log and warn of, which a user can do nothing about, off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
