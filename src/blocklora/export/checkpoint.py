"""A classifier as a checkpoint of transformers: both towers, with everything learned merged into plain weights.

N = classes, D = width of a feature.
"""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from blocklora.classifier import Classifier
from blocklora.clip import Clip, class_features, tokenize
from blocklora.clip.quiet import quiet
from blocklora.core.errors import ConfigError
from blocklora.export.arrays import write_head
from blocklora.export.facts import Facts
from blocklora.export.tower import check_head, merged_model

__all__ = ["CLASSIFIER_FOLDER", "write_checkpoint"]

CLASSIFIER_FOLDER = "image-classification"
_CODE = Path(__file__).parent / "consumers" / "image_classifier.py"
_CLIP, _SAME = "clip", 1e-4


def write_checkpoint(folder: Path, classifier: Classifier, clip: Clip, facts: Facts) -> tuple[str, ...]:
    """Write model, tokenizer, image processor and head; and for CLIP an image classifier with a linear layer.

    Args:
        folder: An empty folder.
        classifier: With both towers.
        clip: The base model.
        facts: What is known of it.

    Returns:
        What a reader should know, in sentences.

    Raises:
        ConfigError: transformers has no class for what was learned.
    """
    check_head(classifier, mixtures=False)
    if classifier.image.prompts is not None:
        raise ConfigError(
            f"method '{classifier.method}' cannot be exported with --format hf: no class of transformers reads learned "
            "vectors beside an image. Use --format onnx or numpy."
        )
    model = merged_model(classifier)
    if clip.model_type == _CLIP:
        model.logit_scale.data.fill_(math.log(_scale(classifier, model) / classifier.temperature))
    with quiet():
        model.save_pretrained(folder)
    clip.tokenizer.save_pretrained(folder)
    clip.processor.save_pretrained(folder)
    write_head(folder, classifier)
    notes = [_zero_shot_note(classifier, clip, model)]
    if clip.model_type == _CLIP:
        notes.append(_write_classifier(folder / CLASSIFIER_FOLDER, classifier, clip, model))
    return tuple(notes)


def _scale(classifier: Classifier, model: Any) -> float:
    """Return what the head multiplies cosines by, or the model's own scale."""
    return float(classifier.head.numbers.get("scale", model.logit_scale.exp()))


def _zero_shot_note(classifier: Classifier, clip: Clip, model: Any) -> str:
    """Say whether the zero-shot pipeline gives the run's own probabilities: compare its class features."""
    pipeline = 'transformers.pipeline("zero-shot-image-classification", model=FOLDER)'
    tokens, _ = tokenize(classifier.prompts, clip.tokenizer, clip.context_length)
    found = class_features(model, tokens, engine="plain")  # (N, D)
    own = classifier.head.tensors.get("class_features")
    same = classifier.head.kind == "cosine" and own is not None and _equal(found, own)
    if same and clip.model_type == _CLIP:
        return (
            f"`{pipeline}` gives the same probabilities when the prompts of export.json are its candidate_labels and "
            'hypothesis_template is "{}"; the temperature is part of the model\'s logit scale.'
        )
    return (
        f"`{pipeline}` loads this folder, but does not give the run's probabilities: what was learned about the "
        f"classes is in head.npz (kind: {classifier.head.kind}), which it does not read. predict.py does."
    )


def _equal(found: Tensor, own: Tensor) -> bool:
    return found.shape == own.shape and bool((found - own).abs().max() < _SAME)


def _write_classifier(folder: Path, classifier: Classifier, clip: Clip, model: Any) -> str:
    """Write the image tower with the head as a linear layer, where the head is one."""
    head, pipeline = (
        classifier.head,
        'transformers.pipeline("image-classification", ..., trust_remote_code=True)',
    )
    if head.kind not in ("cosine", "linear"):
        return f"There is no folder for `{pipeline}`: a head of kind {head.kind} is not a linear layer."
    tensors = head.tensors
    if head.kind == "cosine":
        weight = tensors["class_features"] * float(head.numbers["scale"])
        bias = torch.zeros(len(weight))
    else:
        weight, bias = tensors["weight"], tensors["bias"]
    state = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(("vision_model.", "visual_projection."))
    }
    config = copy.deepcopy(model.config.vision_config)
    config.projection_dim = model.config.projection_dim
    config.id2label = dict(enumerate(map(str, classifier.class_names)))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.auto_map = {"AutoModelForImageClassification": f"{_CODE.stem}.ClipClassifier"}
    tower = CLIPVisionModelWithProjection(config)
    tower.load_state_dict(state)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight / classifier.temperature, bias / classifier.temperature
    tower.classifier = layer
    with quiet():
        tower.save_pretrained(folder)
    clip.processor.save_pretrained(folder)
    shutil.copyfile(_CODE, folder / _CODE.name)
    return f"`{pipeline}` loads `{CLASSIFIER_FOLDER}/` and gives the same probabilities."
