"""What classifier.json says of a classifier, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from blocklora.classifier.heads import HEADS, Head, Member
from blocklora.clip import Engine
from blocklora.core.errors import RunError
from blocklora.core.files import write_json

__all__ = ["CLASSIFIER", "ClassifierRecord", "HeadRecord", "Label", "MemberRecord", "TextRecord"]

CLASSIFIER = "classifier.json"
_FORMAT = 2

Label = str | int | float | bool


@dataclass(frozen=True)
class MemberRecord:
    """A member of a mixture: its head's kind and plain numbers, and the numbers of a ``Member``."""

    kind: str
    numbers: Mapping[str, float]
    weight: float
    temperature: float
    base: bool


@dataclass(frozen=True)
class HeadRecord:
    """A head's kind, a name in ``HEADS``, its plain numbers, and the members of a mixture."""

    kind: str
    numbers: Mapping[str, float]
    members: Sequence[MemberRecord] = ()

    @classmethod
    def of(cls, head: Head) -> HeadRecord:
        """Return what is written of a head beside its tensors."""
        members = [
            MemberRecord(m.head.kind, dict(m.head.numbers), m.weight, m.temperature, m.base)
            for m in head.members
        ]
        return cls(head.kind, dict(head.numbers), members)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> HeadRecord:
        """Return the record that a JSON object is."""
        members = tuple(MemberRecord(**member) for member in facts.get("members", ()))
        if unknown := {member.kind for member in members} - set(HEADS):
            raise ValueError(f"a member of the head is of the unknown kind '{min(unknown)}'")
        return cls(facts["kind"], facts["numbers"], members)

    def head(self, tensors: Mapping[str, Tensor], model: Any = None) -> Head:
        """Return the head that these tensors belong to; ``Head.check`` says whether they fit."""
        members, own = [], dict(tensors)
        for place, member in enumerate(self.members):
            prefix = f"{place}/"
            its = {name.removeprefix(prefix): own.pop(name) for name in tensors if name.startswith(prefix)}
            head = Head(member.kind, its, member.numbers)
            members.append(Member(head, float(member.weight), float(member.temperature), bool(member.base)))
        return Head(self.kind, own, self.numbers, model, tuple(members))


@dataclass(frozen=True)
class TextRecord:
    """The words that learned vectors started from, and whether text_tower.safetensors belongs to the classifier."""

    words: str
    changed: bool


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
        text_side: What was learned about class names; None for a method that knows no other classes.
        text_tower_sha256: Of the base model, where a prediction needs the text tower.
        head: What predicts.
        labels: One a class, as they were given.
        class_names: N names.
        prompts: N sentences.
        temperature: What logits are divided by.
        engine: Which engine it was fitted with.
        precision: What it was fitted in.
        parameters: Those of the fit beside model and method, by the names that ``FewShotClassifier`` has for them.
        found_names: The classes as the data named them, where they got other words; else empty.
        image_tensors: How many tensors image_tower.safetensors holds, so that a missing one is noticed; None in files
            of earlier versions.
        text_tensors: The same of text_tower.safetensors.
        evidence: Whether evidence.safetensors belongs to it.
    """

    method: str
    model: str
    revision: str | None
    image_tower_sha256: str
    image_tower_adapted: bool
    image_tower_changed: bool
    text_side: TextRecord | None
    text_tower_sha256: str | None
    head: HeadRecord
    labels: Sequence[Label]
    class_names: Sequence[str]
    prompts: Sequence[str]
    temperature: float
    engine: Engine = "auto"
    precision: str = "fp32"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    found_names: Sequence[str] = ()
    image_tensors: int | None = None
    text_tensors: int | None = None
    evidence: bool = False

    def write(self, folder: Path, versions: Mapping[str, str]) -> None:
        """Write classifier.json, with the versions of the packages that the classifier was made with."""
        write_json(folder / CLASSIFIER, {"format": _FORMAT} | asdict(self) | {"versions": dict(versions)})

    @classmethod
    def read(cls, folder: Path) -> ClassifierRecord:
        """Read classifier.json.

        Raises:
            RunError: The folder or the file is missing, damaged, or of another version of blocklora.
        """
        if not folder.is_dir():
            raise RunError(
                f"{folder}: no such folder; expected a RUN folder that 'blocklora fit' has written."
            )
        if not (folder / CLASSIFIER).is_file():
            raise RunError(
                f"{folder}: holds no {CLASSIFIER}, so it is not a finished run; finish it with 'blocklora fit ... "
                "--resume', or name another folder."
            )
        try:
            content = json.loads((folder / CLASSIFIER).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT or content["head"]["kind"] not in HEADS:
                raise RunError(
                    f"{folder}: format {content['format']} of {CLASSIFIER} is not known to this version of "
                    f"blocklora, which reads {_FORMAT}; upgrade blocklora, or fit it again."
                )
            return cls._of(content)
        except RunError:
            raise
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from error

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> ClassifierRecord:
        """Return the record that a JSON object is."""
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in content.items() if name in names}
        text = known["text_side"]
        record = cls(
            **{
                **known,
                "head": HeadRecord.from_json(known["head"]),
                "text_side": None if text is None else TextRecord(**text),
                "temperature": float(known["temperature"]),
            }
        )
        if not len(record.labels) == len(record.class_names) == len(record.prompts):
            raise ValueError("labels, class_names and prompts are of different lengths")
        if not record.temperature > 0:
            raise ValueError(f"temperature is {record.temperature}; expected a positive number")
        return record


def _damaged(folder: Path, error: object) -> RunError:
    return RunError(f"{folder}: this classifier is damaged ({str(error).rstrip('.')}); fit it again.")
