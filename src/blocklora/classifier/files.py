"""A classifier on disk, of whatever method: a few files, and ``classifier.json`` that says what they are.

    adapter/                    the PEFT adapter of a method that has one
    image_tower.safetensors     new weights or prompts of the image tower, of a method that changes it otherwise
    text_tower.safetensors      new weights or words of the text tower, for classes that were not there
    class_features.safetensors  the head's tensors, and the class features of zero-shot
    classifier.json             all names and values

``classifier.json`` names the base model, its revision and a hash of its image tower, so an adapter never meets weights
that it was not trained on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from blocklora.adapter import changes_base, load_adapter
from blocklora.classifier.changes import ImageChange, TextChange
from blocklora.classifier.classifier import Classifier
from blocklora.classifier.heads import CONDITIONAL, HEADS, Head
from blocklora.clip import Clip, ImageTower, load_clip, load_image_tower, shared_view, text_tower_hash
from blocklora.core.errors import ModelError, RunError
from blocklora.core.files import replace_in_folder, write_bytes, write_json

__all__ = [
    "ADAPTER",
    "CLASSIFIER",
    "CLASSIFIER_FILES",
    "ClassifierRecord",
    "read_both_towers",
    "read_classifier",
    "write_classifier",
]

CLASSIFIER = "classifier.json"
_FORMAT = 2
ADAPTER, _FEATURES, _IMAGE = "adapter", "class_features.safetensors", "image_tower.safetensors"
_TEXT = "text_tower.safetensors"
CLASSIFIER_FILES = (ADAPTER, _FEATURES, _IMAGE, _TEXT, CLASSIFIER)  # the last one last
_ZERO_SHOT, _HEAD = "zero_shot", "head/"

Label = str | int | float | bool


@dataclass(frozen=True)
class ClassifierRecord:
    """What classifier.json holds.

    Attributes:
        method: How the classifier was fitted.
        model: The base model: a hub id, an absolute folder, or ``tiny``.
        revision: The hub's commit.
        image_tower_sha256: ``image_tower_hash`` of the base model.
        image_tower_adapted: Whether an adapter stands in the image tower.
        image_tower_changed: Whether image_tower.safetensors belongs to it.
        text_side: ``{"words": str, "changed": bool}``, or None for a method that knows no other classes.
        text_tower_sha256: Of the base model, where a prediction needs the text tower.
        head: ``{"kind": str, "numbers": {name: float}}``.
        labels: One a class, as they were given.
        class_names: N names.
        prompts: N sentences.
        temperature: What logits are divided by.
        engine: Which engine it was fitted with.
        precision: What it was fitted in.
        parameters: Those of the fit beside model and method, by the names that ``FewShotClassifier`` has for them.
        found_names: The classes as the data named them, where they got other words; else empty.
    """

    method: str
    model: str
    revision: str | None
    image_tower_sha256: str
    image_tower_adapted: bool
    image_tower_changed: bool
    text_side: Mapping[str, Any] | None
    text_tower_sha256: str | None
    head: Mapping[str, Any]
    labels: Sequence[Label]
    class_names: Sequence[str]
    prompts: Sequence[str]
    temperature: float
    engine: str = "auto"
    precision: str = "fp32"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    found_names: Sequence[str] = ()


def write_classifier(
    folder: Path,
    classifier: Classifier,
    labels: Sequence[Label],
    parameters: Mapping[str, Any],
    versions: Mapping[str, str],
    found_names: Sequence[str] = (),
) -> None:
    """Write a classifier into a folder, which is made if need be; other files in it are left alone.

    Everything is written beside what is there, and then put in its place: where writing fails, a classifier that stood
    there is as it was, and files of an old one that the new one does not have are gone afterwards.

    Args:
        folder: Where to.
        classifier: What to write.
        labels: One a class, ready for JSON.
        parameters: See ``ClassifierRecord``.
        versions: Of the packages that it was made with.
        found_names: See ``ClassifierRecord``.

    Raises:
        RunError: The folder is a file, or the adapter cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; expected a folder, or a new name for one.")
    with replace_in_folder(folder, CLASSIFIER_FILES) as staged:
        if classifier.adapter is not None:
            _write_adapter(staged / ADAPTER, classifier)
        features = {_HEAD + name: tensor for name, tensor in classifier.head.tensors.items()}
        _write_tensors(staged / _FEATURES, features | {_ZERO_SHOT: classifier.zero_shot_features})
        if classifier.image:
            _write_tensors(staged / _IMAGE, classifier.image.tensors())
        if classifier.text and classifier.text.tensors():
            _write_tensors(staged / _TEXT, classifier.text.tensors())
        record = replace(_record(classifier, labels, parameters), found_names=tuple(found_names))
        content = asdict(record) | {"versions": dict(versions)}
        write_json(staged / CLASSIFIER, {"format": _FORMAT} | content)


def read_classifier(
    folder: Path, *, device: torch.device | None = None, model: str | None = None
) -> tuple[Classifier, ClassifierRecord]:
    """Read a classifier that predicts on images; the text tower is loaded only where its head runs it.

    Args:
        folder: What ``write_classifier`` wrote.
        device: Where it will predict; None is the CPU.
        model: Where the base model is now, if it has moved; its weights must be the same.

    Returns:
        The classifier, and what classifier.json says of it.

    Raises:
        RunError: The folder is missing, incomplete or damaged, or its base model has other weights now.
        ModelError: The base model cannot be loaded.
    """
    record, tensors = _read(folder)
    conditional = record.head["kind"] == CONDITIONAL
    base = _read_base(folder, record, load_clip if conditional else load_image_tower, device, model)
    if conditional and text_tower_hash(base.model) != record.text_tower_sha256:
        raise _other_weights(folder, record, "text tower")
    adapter = None
    if record.image_tower_adapted:
        alone = not hasattr(base.model, "text_model")  # some families have no class for the image tower alone
        adapter = _read_adapter(base.model, folder / ADAPTER, image_tower_only=alone)
    return _classifier(folder, record, tensors, base, adapter), record


def read_both_towers(
    folder: Path, *, device: torch.device | None = None, model: str | None = None
) -> tuple[Classifier, Clip]:
    """Read a classifier with both towers, to recognise classes by their names; see ``read_classifier``."""
    record, tensors = _read(folder)
    clip = _read_base(folder, record, load_clip, device, model)
    adapter = None
    if (folder / ADAPTER).is_dir():
        adapter = _read_adapter(clip.model, folder / ADAPTER)
    return _classifier(folder, record, tensors, clip, adapter), clip


def _record(
    classifier: Classifier, labels: Sequence[Label], parameters: Mapping[str, Any]
) -> ClassifierRecord:
    """Gather what classifier.json says."""
    base, text = classifier.base, classifier.text
    return ClassifierRecord(
        method=classifier.method,
        model=base.model_id,
        revision=base.revision,
        image_tower_sha256=base.sha256,
        image_tower_adapted=_adapts_image_tower(classifier.adapter),
        image_tower_changed=bool(classifier.image),
        text_side=None if text is None else {"words": text.words, "changed": bool(text.tensors())},
        text_tower_sha256=text_tower_hash(base.model) if classifier.head.kind == CONDITIONAL else None,
        head={"kind": classifier.head.kind, "numbers": dict(classifier.head.numbers)},
        labels=list(labels),
        class_names=list(classifier.class_names),
        prompts=list(classifier.prompts),
        temperature=classifier.temperature,
        engine=classifier.engine,
        precision=classifier.precision,
        parameters=dict(parameters),
    )


def _classifier(
    folder: Path,
    record: ClassifierRecord,
    tensors: Mapping[str, torch.Tensor],
    base: Any,
    adapter: Any,
) -> Classifier:
    """Put a classifier together from what was read."""
    device = next(base.model.parameters()).device
    own_tower = base.model if record.head["kind"] == CONDITIONAL else None
    try:
        return Classifier(
            method=record.method,
            base=base,
            class_names=tuple(record.class_names),
            prompts=tuple(record.prompts),
            head=Head(record.head["kind"], _under(tensors, _HEAD), record.head["numbers"], own_tower),
            zero_shot_features=tensors[_ZERO_SHOT],
            adapter=adapter,
            image=_read_image_change(folder).to(device) if record.image_tower_changed else ImageChange(),
            text=_read_text_change(folder, **record.text_side) if record.text_side else None,
            temperature=record.temperature,
            engine=record.engine,  # type: ignore[arg-type]  # "auto", "lean" or "plain", as written
            precision=record.precision,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder}: this classifier is damaged ({error}); fit it again.") from error


def _read_base(
    folder: Path,
    record: ClassifierRecord,
    load: Callable[..., Any],
    device: torch.device | None,
    model: str | None,
) -> Any:
    """Load the base model, check that its image tower is the one of before, and put it on the device."""
    try:
        base: Clip | ImageTower = load(*((model, None) if model else (record.model, record.revision)))
    except ModelError as error:
        if model:
            raise
        raise ModelError(
            f"{error} {folder} was fitted with this model; if it is elsewhere now, name the place with --model "
            "(in Python: load(path, model=...))."
        ) from error
    if base.sha256 != record.image_tower_sha256:
        raise _other_weights(folder, record, "image tower", model)
    torch.nn.Module.to(base.model, device or torch.device("cpu"))
    return base


def _other_weights(folder: Path, record: ClassifierRecord, tower: str, model: str | None = None) -> RunError:
    return RunError(
        f"{folder}: its base model {model or record.model} has another {tower} than the one it was fitted with; "
        "fit it again, or bring the old weights back."
    )


def _read(folder: Path) -> tuple[ClassifierRecord, dict[str, torch.Tensor]]:
    """Read classifier.json and the class features."""
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected a RUN folder that 'blocklora fit' has written.")
    if not (folder / CLASSIFIER).is_file():
        raise RunError(
            f"{folder}: holds no {CLASSIFIER}, so it is not a finished run; finish it with 'blocklora fit ... "
            "--resume', or name another folder."
        )
    try:
        content = json.loads((folder / CLASSIFIER).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT or content["head"]["kind"] not in HEADS:
            raise RunError(
                f"{folder}: format {content['format']} of {CLASSIFIER} is not known to this version of blocklora, "
                f"which reads {_FORMAT}; upgrade blocklora, or fit it again."
            )
        names = {field.name for field in fields(ClassifierRecord)}
        record = ClassifierRecord(**{name: value for name, value in content.items() if name in names})
        return record, load_file(folder / _FEATURES)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{folder}: this classifier is damaged ({error}); fit it again.") from error


def _read_adapter(model: Any, folder: Path, *, image_tower_only: bool = False) -> Any:
    """Put an adapter into a view of a model, or into a copy where the adapter changes the base weights."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise RunError(f"{folder}: this adapter cannot be read ({error}); fit it again.") from error
    view = copy.deepcopy(model) if changes_base(config) else shared_view(model)
    return load_adapter(view, folder, image_tower_only=image_tower_only)


def _read_image_change(folder: Path) -> ImageChange:
    """Read what was changed in the image tower."""
    try:
        return ImageChange.from_tensors(load_file(folder / _IMAGE))
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{folder / _IMAGE}: this file cannot be used ({error}); fit it again.") from error


def _read_text_change(folder: Path, words: str, changed: bool) -> TextChange:
    """Read what was learned about class names."""
    if not changed:
        return TextChange(words=words)
    try:
        return TextChange.from_tensors(load_file(folder / _TEXT), words)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{folder / _TEXT}: this file cannot be used ({error}); fit it again.") from error


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors by name."""
    write_bytes(
        path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})
    )


def _adapts_image_tower(adapter: Any) -> bool:
    """Return whether any of an adapter's layers stands in the image tower."""
    return adapter is not None and any(
        "vision_model." in name and isinstance(module, BaseTunerLayer)
        for name, module in adapter.named_modules()
    )


def _write_adapter(folder: Path, classifier: Classifier) -> None:
    """Write PEFT's files, naming the base model as the user knows it."""
    config = classifier.adapter.peft_config["default"]
    config.base_model_name_or_path, config.revision = classifier.base.model_id, classifier.base.revision
    try:
        classifier.adapter.save_pretrained(folder, save_embedding_layers=False)
    except SafetensorError as error:
        raise RunError(f"{folder}: cannot be written ({error}).") from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card says nothing of this run
