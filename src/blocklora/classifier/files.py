"""A classifier on disk, of whatever method: a few files, and ``classifier.json`` that says what they are.

    adapter/                    the PEFT adapter of a method that has one
    image_tower.safetensors     new weights or prompts of the image tower, of a method that changes it otherwise
    text_tower.safetensors      new weights or words of the text tower, for classes that were not there
    class_features.safetensors  the head's tensors, and the class features of zero-shot
    evidence.safetensors        answers to held-out images and features of training images; see evidence.py
    classifier.json             all names and values

``classifier.json`` names the base model, its revision and a hash of its image tower, so an adapter never meets weights
that it was not trained on. Every tensor that is read has its place in the model or the head, or an error names it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blocklora.adapter import changes_base, load_adapter
from blocklora.classifier.changes import ImageChange, TextChange
from blocklora.classifier.classifier import Classifier
from blocklora.classifier.evidence import EVIDENCE, Evidence, read_evidence
from blocklora.classifier.heads import CONDITIONAL, Head
from blocklora.classifier.record import CLASSIFIER, ClassifierRecord, HeadRecord, Label, TextRecord
from blocklora.clip import Clip, ImageTower, load_clip, load_image_tower, shared_view, text_tower_hash
from blocklora.core.errors import ModelError, RunError
from blocklora.core.files import replace_in_folder, write_bytes

__all__ = ["CLASSIFIER_FILES", "read_both_towers", "read_classifier", "write_classifier"]

ADAPTER, _FEATURES = "adapter", "class_features.safetensors"
_IMAGE, _TEXT = "image_tower.safetensors", "text_tower.safetensors"
CLASSIFIER_FILES = (ADAPTER, _FEATURES, _IMAGE, _TEXT, EVIDENCE, CLASSIFIER)  # the last one last
_ZERO_SHOT, _HEAD = "zero_shot", "head/"

_Base = TypeVar("_Base", bound=Clip | ImageTower)
_Read = TypeVar("_Read")


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
        OSError: The disk is full, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: this is a file; expected a folder, or a new name for one.")
    with replace_in_folder(folder, CLASSIFIER_FILES) as staged:
        if classifier.adapter is not None:
            _write_adapter(staged / ADAPTER, classifier)
        features = {_HEAD + name: tensor for name, tensor in classifier.head.all_tensors.items()}
        _write_tensors(staged / _FEATURES, features | {_ZERO_SHOT: classifier.zero_shot_features})
        if classifier.image:
            _write_tensors(staged / _IMAGE, classifier.image.tensors())
        if classifier.text and classifier.text.tensors():
            _write_tensors(staged / _TEXT, classifier.text.tensors())
        classifier.evidence.write(staged)
        _record(classifier, labels, parameters, found_names).write(staged, versions)


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
    record = ClassifierRecord.read(folder)
    load: Callable[..., Any] = load_clip if record.head.kind == CONDITIONAL else load_image_tower
    base = _read_base(folder, record, load, device, model)
    if record.head.kind == CONDITIONAL and text_tower_hash(base.model) != record.text_tower_sha256:
        raise _other_weights(folder, model or record.model, "text tower")
    adapter = None
    if record.image_tower_adapted:
        alone = not hasattr(base.model, "text_model")  # some families have no class for the image tower alone
        adapter = _read_adapter(base.model, folder / ADAPTER, image_tower_only=alone)
    return _classifier(folder, record, base, adapter), record


def read_both_towers(
    folder: Path, *, device: torch.device | None = None, model: str | None = None
) -> tuple[Classifier, Clip]:
    """Read a classifier with both towers, to recognise classes by their names; see ``read_classifier``."""
    record = ClassifierRecord.read(folder)
    clip = _read_base(folder, record, load_clip, device, model)
    adapter = _read_adapter(clip.model, folder / ADAPTER) if (folder / ADAPTER).is_dir() else None
    classifier = _classifier(folder, record, clip, adapter)
    if classifier.text:
        try:
            classifier.text.check(clip.model)
        except ValueError as error:
            raise _unusable(folder / _TEXT, error) from error
    return classifier, clip


def _record(
    classifier: Classifier, labels: Sequence[Label], parameters: Mapping[str, Any], found: Sequence[str]
) -> ClassifierRecord:
    """Gather what classifier.json says."""
    base, text, head = classifier.base, classifier.text, classifier.head
    return ClassifierRecord(
        method=classifier.method,
        model=base.model_id,
        revision=base.revision,
        image_tower_sha256=base.sha256,
        image_tower_adapted=_adapts_image_tower(classifier.adapter),
        image_tower_changed=bool(classifier.image),
        text_side=None if text is None else TextRecord(text.words, bool(text.tensors())),
        text_tower_sha256=text_tower_hash(base.model) if head.kind == CONDITIONAL else None,
        head=HeadRecord.of(head),
        labels=list(labels),
        class_names=list(classifier.class_names),
        prompts=list(classifier.prompts),
        temperature=classifier.temperature,
        engine=classifier.engine,
        precision=classifier.precision,
        parameters=dict(parameters),
        found_names=tuple(found),
        image_tensors=len(classifier.image.tensors()),
        text_tensors=0 if text is None else len(text.tensors()),
        evidence=bool(classifier.evidence),
    )


def _classifier(folder: Path, record: ClassifierRecord, base: Clip | ImageTower, adapter: Any) -> Classifier:
    """Put a classifier together from its record and its files."""
    device = next(base.model.parameters()).device
    head, zero_shot = _read_head(folder / _FEATURES, record, base.model)
    image, text = ImageChange(), None
    if record.image_tower_changed:
        image = _read_file(folder / _IMAGE, ImageChange.from_tensors, record.image_tensors).to(device)
    if record.text_side:
        text = _read_text_change(folder / _TEXT, record.text_side, record.text_tensors)
    try:
        image.check(base.model)
    except ValueError as error:
        raise _unusable(folder / _IMAGE, error) from error
    return Classifier(
        method=record.method,
        base=base,
        class_names=tuple(record.class_names),
        prompts=tuple(record.prompts),
        head=head,
        zero_shot_features=zero_shot,
        adapter=adapter,
        image=image,
        text=text,
        temperature=record.temperature,
        engine=record.engine,
        precision=record.precision,
        evidence=read_evidence(folder, head, *zero_shot.shape) if record.evidence else Evidence(),
    )


def _read_base(
    folder: Path,
    record: ClassifierRecord,
    load: Callable[[str, str | None], _Base],
    device: torch.device | None,
    model: str | None,
) -> _Base:
    """Load the base model, check that its image tower is the one of before, and put it on the device."""
    try:
        base = load(model, None) if model else load(record.model, record.revision)
    except ModelError as error:
        if model:
            raise
        raise ModelError(
            f"{error} {folder} was fitted with this model; if it is elsewhere now, name the place with --model "
            "(in Python: load(path, model=...))."
        ) from error
    if base.sha256 != record.image_tower_sha256:
        raise _other_weights(folder, model or record.model, "image tower")
    torch.nn.Module.to(base.model, device or torch.device("cpu"))
    return base


def _other_weights(folder: Path, model: str, tower: str) -> RunError:
    return RunError(
        f"{folder}: its base model {model} has another {tower} than the one it was fitted with; "
        "fit it again, or bring the old weights back."
    )


def _unusable(path: Path, error: object) -> RunError:
    return RunError(f"{path}: this file cannot be used ({str(error).rstrip('.')}); fit it again.")


def _read_adapter(model: Any, folder: Path, *, image_tower_only: bool = False) -> Any:
    """Put an adapter into a view of a model, or into a copy where the adapter changes the base weights."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise RunError(f"{folder}: this adapter cannot be read ({error}); fit it again.") from error
    view = copy.deepcopy(model) if changes_base(config) else shared_view(model)
    return load_adapter(view, folder, image_tower_only=image_tower_only).requires_grad_(False)


def _read_head(path: Path, record: ClassifierRecord, model: Any) -> tuple[Head, Tensor]:
    """Read the head and the zero-shot class features (N, D)."""

    def of(tensors: dict[str, Tensor]) -> tuple[Head, Tensor]:
        if _ZERO_SHOT not in tensors:
            raise ValueError(f"the tensor '{_ZERO_SHOT}' is missing")
        zero_shot = tensors.pop(_ZERO_SHOT)
        classes = len(record.class_names)
        if zero_shot.ndim != 2 or len(zero_shot) != classes:
            raise ValueError(f"the tensor '{_ZERO_SHOT}' is {tuple(zero_shot.shape)}, for {classes} classes")
        if strange := [name for name in tensors if not name.startswith(_HEAD)]:
            raise ValueError(f"the tensor '{strange[0]}' belongs to nothing")
        own = {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items()}
        head = record.head.head(own, model if record.head.kind == CONDITIONAL else None)
        head.check(classes, zero_shot.shape[1])
        return head, zero_shot

    return _read_file(path, of)


def _read_text_change(path: Path, text: TextRecord, expected: int | None) -> TextChange:
    """Read what was learned about class names."""
    if not text.changed:
        return TextChange(words=text.words)
    return _read_file(path, lambda tensors: TextChange.from_tensors(tensors, text.words), expected)


def _read_file(path: Path, of: Callable[[dict[str, Tensor]], _Read], expected: int | None = None) -> _Read:
    """Read a file of tensors, of which there are ``expected``, and return what they are."""
    try:
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file may go
        if expected is not None and len(tensors) != expected:
            raise ValueError(f"it holds {len(tensors)} tensors, where {expected} were written")
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"the tensor '{name}' has values that are NaN or infinite")
        return of(tensors)
    except (OSError, SafetensorError, ValueError) as error:
        raise _unusable(path, error) from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name."""
    write_bytes(path, save({n: value.detach().cpu().contiguous().clone() for n, value in tensors.items()}))


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
