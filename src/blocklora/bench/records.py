"""What a bench keeps of its runs, typed: an entry of ``plan.json``, and a line of ``runs.jsonl``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["Machine", "PlanEntry", "RunFailure", "RunRecord", "RunResult", "same_runs"]


@dataclass(frozen=True)
class PlanEntry:
    """One run that a grid has: its key, and where it stands in the tables.

    Attributes:
        key: A hash of all settings, see ``GridRun.key``. Entries of the same key are one run under several names.
        data: The data set's name in the grid.
        model: A hub id, a folder's full path, or ``tiny``.
        method: The method's name in the grid.
        shots: Training images of each class.
        seed: Where all randomness comes from.
    """

    key: str
    data: str
    model: str
    method: str
    shots: int
    seed: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlanEntry:
        """Read an entry; other fields are passed over, a missing one raises ``KeyError``."""
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    def to_json(self) -> Mapping[str, Any]:
        """Return the entry ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """The machine that a run was made on, without its name, and how many runs shared it.

    Attributes:
        system: Such as ``Linux``.
        processor: Such as ``x86_64``.
        cores: CPU cores that the bench could use.
        memory_bytes: All of its memory.
        gpus: The names of the GPUs in use.
        workers: Processes at work at once.
        threads: CPU threads of each.
    """

    system: str
    processor: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    workers: int
    threads: int

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Machine:
        """Read what ``to_json`` gave."""
        return cls(**{**content, "gpus": tuple(content["gpus"])})

    def to_json(self) -> Mapping[str, Any]:
        """Return the machine ready for JSON."""
        return asdict(self) | {"gpus": list(self.gpus)}


@dataclass(frozen=True)
class RunResult:
    """What a finished run measured.

    Attributes:
        accuracy: On the test images, 0 to 1.
        n_test: Test images.
        trainable_parameters: How many were trained.
        train_seconds: Of training, features included, also those that another run had computed.
        peak_memory_bytes: Of the process; on a GPU, of torch.
        split_sha256: A hash of the images of the run.
        created: When the run ended; ISO 8601, UTC.
        seconds: Of the whole run.
        resumed: Whether it went on from a checkpoint.
        details: The other metrics that are kept: intervals, how settings were chosen, notes, versions.
    """

    accuracy: float
    n_test: int
    trainable_parameters: int
    train_seconds: float
    peak_memory_bytes: int
    split_sha256: str
    created: str
    seconds: float
    resumed: bool
    details: Mapping[str, Any]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunResult:
        """Read what ``to_json`` gave; what has no attribute here becomes ``details``."""
        names = [field.name for field in fields(cls) if field.name != "details"]
        details = {name: value for name, value in content.items() if name not in names}
        return cls(**{name: content[name] for name in names}, details=details)

    def to_json(self) -> Mapping[str, Any]:
        """Return the result ready for JSON."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "details"}
        return {**own, **self.details}


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed: the error in one line, its traceback, when, and after how many seconds."""

    error: str
    trace: str
    created: str
    seconds: float


@dataclass(frozen=True)
class RunRecord:
    """A line of ``runs.jsonl``.

    Attributes:
        entry: Which run; the names are those that it had when it was done.
        attempts: How often it was tried.
        outcome: What it measured, or why it failed.
        settings: Every setting, defaults included: what the key is a hash of.
        machine: Where it was done.
        code: The version of blocklora; in a checkout also its commit, and whether files differ from it.
    """

    entry: PlanEntry
    attempts: int
    outcome: RunResult | RunFailure
    settings: Mapping[str, Any]
    machine: Machine
    code: Mapping[str, Any]

    @property
    def status(self) -> Literal["ok", "failed"]:
        """Whether the run was finished."""
        return "ok" if isinstance(self.outcome, RunResult) else "failed"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """Read a line.

        Raises:
            KeyError: A field is missing.
            TypeError: ``content`` or a part of it is no JSON object.
        """
        entry = PlanEntry.from_json(content)
        known = {*entry.to_json(), "attempts", "status", "settings", "machine", "code"}
        outcome = {name: value for name, value in content.items() if name not in known}
        return cls(
            entry=entry,
            attempts=content["attempts"],
            outcome=RunResult.from_json(outcome) if content["status"] == "ok" else RunFailure(**outcome),
            settings=content["settings"],
            machine=Machine.from_json(content["machine"]),
            code=content["code"],
        )

    def to_json(self) -> Mapping[str, Any]:
        """Return the line, ready for JSON."""
        outcome = self.outcome
        return {
            **self.entry.to_json(),
            "attempts": self.attempts,
            "status": self.status,
            **(outcome.to_json() if isinstance(outcome, RunResult) else asdict(outcome)),
            "settings": dict(self.settings),
            "machine": self.machine.to_json(),
            "code": dict(self.code),
        }


def same_runs(plan: Sequence[PlanEntry], axis: Literal["data", "method"]) -> dict[str, str]:
    """Return the names whose runs are all those of an earlier name, and that earlier name.

    Two methods of equal settings, or two names for the same data, are such names.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for entry in plan:
        keys[getattr(entry, axis)].add(entry.key)
    first: dict[frozenset[str], str] = {}
    originals = {name: first.setdefault(frozenset(found), name) for name, found in keys.items()}
    return {name: original for name, original in originals.items() if name != original}
