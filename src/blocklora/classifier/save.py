"""A fitted classifier on disk, of whatever method: a few files, and ``classifier.json`` that says what they are.

    adapter/                    the PEFT adapter of a method that has one
    image_tower.safetensors     new weights or prompts of the image tower, of a method that changes it otherwise
    text_tower.safetensors      new weights or words of the text tower, for classes that were not there
    class_features.safetensors  the head's tensors, and the class features of zero-shot
    classifier.json             all names and numbers

Axes: M = pictures, N = classes, D = the width of CLIP's shared space.

``classifier.json`` is written last: a folder without it is not a classifier. It names the base model, its
revision and a hash of its image tower, so an adapter never meets weights it was not trained on.
"""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save

import blocklora.adapter  # noqa: F401  (makes Block-LoRA known to PEFT)
from blocklora.classifier.heads import CONDITIONAL, HEADS, Head
from blocklora.classifier.text_side import TextSide
from blocklora.classifier.tower import TowerChange
from blocklora.clip import Clip, ImageTower, load_clip, load_image_tower
from blocklora.core.errors import RunError
from blocklora.core.files import write_bytes, write_folder, write_json

__all__ = [
    "ADAPTER",
    "CLASSIFIER",
    "Saved",
    "read_classifier",
    "versions",
    "with_adapter",
    "write_classifier",
]

CLASSIFIER = "classifier.json"
_FORMAT = 2
ADAPTER, _FEATURES, _TOWER = "adapter", "class_features.safetensors", "image_tower.safetensors"
_TEXT = "text_tower.safetensors"
_ZERO_SHOT, _HEAD = "zero_shot", "head/"
_KEYS = (
    "method", "model", "revision", "image_tower_sha256", "image_tower_adapted", "image_tower_changed", "text_side",
    "text_tower_sha256", "head", "labels", "class_names", "prompts", "temperature",
)  # fmt: skip
_PACKAGES = ("blocklora", "torch", "transformers", "peft", "safetensors", "pillow", "numpy")


@dataclass
class Saved:
    """A fitted classifier in memory.

    Attributes:
        method: How it was fitted.
        model: A whole model or its image tower alone, or a ``PeftModel`` around one.
        processor: The image processor.
        model_id: The base model: a hub id, an absolute folder, or ``tiny``.
        revision: The hub's commit.
        sha256: ``image_tower_hash`` of the base model.
        class_names: N names.
        prompts: N sentences.
        head: What turns image features into logits.
        zero_shot_features: Unit features (N, D) of the text tower as it was.
        temperature: What logits are divided by.
        tower: What is changed in the image tower, beside an adapter.
        text: What was learned about class names in general; None where only these classes were learned.
    """

    method: str
    model: Any
    processor: Any
    model_id: str
    revision: str | None
    sha256: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    head: Head
    zero_shot_features: torch.Tensor
    temperature: float
    tower: TowerChange = field(default_factory=TowerChange)
    text: TextSide | None = None

    def to(self, device: torch.device) -> None:
        """Move the image tower, and what is changed in it, to a device."""
        self.model.to(device)
        self.tower = self.tower.to(device)

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Turn adapted image features (M, D) into logits (M, N), in float64."""
        return self.head.logits(features)

    def probabilities(self, features: torch.Tensor) -> NDArray[np.float64]:
        """Turn adapted image features (M, D) into probabilities (M, N)."""
        if not len(features):
            return np.empty((0, len(self.class_names)))
        return np.asarray((self.logits(features) / self.temperature).softmax(dim=1).numpy())

    def zero_shot_labels(self, features: torch.Tensor) -> NDArray[np.int64]:
        """Return the class index (M,) that plain CLIP gives image features (M, D) of its own tower."""
        return np.asarray((features @ self.zero_shot_features.T).argmax(dim=1).numpy())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def write_classifier(folder: Path, saved: Saved, labels: list[Any]) -> None:
    """Write a classifier into a folder, which is made if need be; other files in it are left alone."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; expected a folder, or a new name for one.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLASSIFIER).unlink(missing_ok=True)  # an old one must not name new weights
    if isinstance(saved.model, PeftModel):
        try:
            with write_folder(folder / ADAPTER) as adapter:
                _write_adapter(adapter, saved)
        except SafetensorError as error:
            raise RunError(f"{folder / ADAPTER}: cannot be written ({error}).") from error
    features = {_HEAD + name: tensor for name, tensor in saved.head.tensors.items()}
    _write_tensors(folder / _FEATURES, features | {_ZERO_SHOT: saved.zero_shot_features})
    if saved.tower:
        _write_tensors(folder / _TOWER, saved.tower.tensors())
    text = saved.text.tensors() if saved.text else {}
    if text:
        _write_tensors(folder / _TEXT, text)
    write_json(
        folder / CLASSIFIER,
        {
            "format": _FORMAT,
            "method": saved.method,
            "model": saved.model_id,
            "revision": saved.revision,
            "image_tower_sha256": saved.sha256,
            "image_tower_adapted": _adapts_image_tower(saved.model),
            "image_tower_changed": bool(saved.tower),
            "labels": labels,
            "class_names": list(saved.class_names),
            "prompts": list(saved.prompts),
            "text_side": {"words": saved.text.words, "changed": bool(text)} if saved.text else None,
            "text_tower_sha256": _text_tower_hash(saved.head.model) if saved.head.model else None,
            "head": {"kind": saved.head.kind, "numbers": dict(saved.head.numbers)},
            "temperature": saved.temperature,
            "preprocessing": json.loads(saved.processor.to_json_string()),
            "versions": versions(),
        },
    )


def read_classifier(folder: Path) -> tuple[Saved, list[Any]]:
    """Read a classifier back: without training data, and without the text tower unless the method needs it.

    Returns:
        The classifier, and its labels.

    Raises:
        RunError: The folder is missing, incomplete or damaged, or the base model has other weights now.
        ModelError: The base model cannot be loaded.
    """
    record, features = _read_record(folder)
    conditional = record["head"]["kind"] == CONDITIONAL
    load: Callable[..., Clip | ImageTower] = load_clip if conditional else load_image_tower
    tower = load(record["model"], record["revision"])
    text = _text_tower_hash(tower.model) if conditional else None
    if (tower.sha256, text) != (record["image_tower_sha256"], record["text_tower_sha256"]):
        raise RunError(
            f"{folder}: the base model '{record['model']}' has other weights than when this classifier was "
            "made; fit it again, or put the old weights back."
        )
    model = with_adapter(tower.model, folder / ADAPTER) if record["image_tower_adapted"] else tower.model
    saved = Saved(
        method=record["method"],
        model=model,
        processor=tower.processor,
        model_id=record["model"],
        revision=record["revision"],
        sha256=tower.sha256,
        class_names=tuple(record["class_names"]),
        prompts=tuple(record["prompts"]),
        head=Head(
            record["head"]["kind"],
            _under(features, _HEAD),
            record["head"]["numbers"],
            tower.model if conditional else None,
        ),
        zero_shot_features=features[_ZERO_SHOT],
        temperature=record["temperature"],
        tower=_read_tower(folder, tower.model) if record["image_tower_changed"] else TowerChange(),
        text=_read_text(folder, **record["text_side"]) if record["text_side"] else None,
    )
    return saved, record["labels"]


def _read_record(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read classifier.json and the class features."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected a RUN folder that 'blocklora fit' has written.")
    if not (folder / CLASSIFIER).is_file():
        raise RunError(
            f"{folder}: holds no {CLASSIFIER}, so it is not a finished run; finish it with 'blocklora fit ... "
            "--resume', or name another folder."
        )
    try:
        record = json.loads((folder / CLASSIFIER).read_text(encoding="utf-8"))
        if record["format"] != _FORMAT or record["head"]["kind"] not in HEADS:
            raise RunError(
                f"{folder}: format {record['format']} of {CLASSIFIER} is not known to this version of blocklora, "
                f"which reads {_FORMAT}; upgrade blocklora, or fit it again."
            )
        if missing := [key for key in _KEYS if key not in record]:
            raise KeyError(f"{CLASSIFIER} has no {missing[0]}")
        features = load_file(folder / _FEATURES)
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(f"{folder}: this classifier is damaged ({error}); fit it again.") from error
    return record, features


def _read_tower(folder: Path, model: torch.nn.Module) -> TowerChange:
    """Read what was changed in the image tower, and check that the model has such parameters."""
    try:
        change = TowerChange.from_tensors(load_file(folder / _TOWER))
        for name, value in change.weights.items():
            if model.get_parameter(name).shape != value.shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}")
    except (OSError, SafetensorError, AttributeError, ValueError) as error:
        raise RunError(f"{folder / _TOWER}: this file cannot be used ({error}); fit it again.") from error
    return change


def _read_text(folder: Path, words: str, changed: bool) -> TextSide:
    """Read what was learned about class names."""
    if not changed:
        return TextSide(words=words)
    try:
        return TextSide.from_tensors(load_file(folder / _TEXT), words)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder / _TEXT}: this file cannot be used ({error}); fit it again.") from error


def _text_tower_hash(model: Any) -> str:
    """Return a SHA-256 over the names and float32 values of a CLIP model's text tower."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("text_model.", "text_projection.")) and not name.endswith("position_ids"):
            digest.update(
                name.encode() + tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
            )
    return digest.hexdigest()


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write tensors by name."""
    write_bytes(path, save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


def _adapts_image_tower(model: Any) -> bool:
    """Return whether any of an adapter's layers stands in the image tower."""
    return isinstance(model, PeftModel) and any(
        "vision_model." in name and isinstance(module, BaseTunerLayer)
        for name, module in model.named_modules()
    )


def _write_adapter(folder: Path, saved: Saved) -> None:
    """Write PEFT's files, naming the base model as the user knows it."""
    config = saved.model.peft_config["default"]
    config.base_model_name_or_path, config.revision = saved.model_id, saved.revision
    saved.model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card says nothing of this run


def with_adapter(tower: torch.nn.Module, folder: Path) -> Any:
    """Load an adapter into a model; where that is the image tower, the text tower's part is left in the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return PeftModel.from_pretrained(tower, str(folder)).eval()
        except Exception as error:
            raise RunError(f"{folder}: this adapter cannot be read ({error}); fit it again.") from error
