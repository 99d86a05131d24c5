"""The state of a training run in one safetensors file, always whole.

torch saves optimizer state by pickle, which blocklora neither writes nor reads; so the few
tensors of it are stored by name, and the plain numbers as JSON in the file's header.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blocklora.core.errors import RunError
from blocklora.core.files import write_bytes, write_json

__all__ = ["Checkpoint", "Remember", "RunState"]

_PARAMETER, _OPTIMIZER, _LOSSES = "parameter/", "optimizer/", "losses"


class Remember(Protocol):
    """More state of a run, which its checkpoint keeps as JSON-ready values."""

    def dump(self) -> Mapping[str, Any]:
        """Return the state."""
        ...

    def load(self, values: Mapping[str, Any]) -> None:
        """Restore the state."""
        ...


@dataclass(frozen=True)
class RunState:
    """All that a step of a run changes; a checkpoint saves it, and puts it back in place.

    Attributes:
        tensors: By name: the trainable tensors, and what else changes.
        optimizer: Over the trainable tensors.
        scheduler: Of its learning rates.
        losses: Of every step (steps,).
        scaler: Of the loss.
        remember: What is kept beside them, if anything.
    """

    tensors: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    losses: torch.Tensor
    scaler: torch.amp.GradScaler
    remember: Remember | None = None


class Checkpoint:
    """Where a run keeps its state.

    Args:
        path: The file; its folder must exist.
        fingerprint: What the run is, as a string: a state is only resumed by the very same run.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self._start = path.with_suffix(".start.json")

    def save(self, step: int, seconds: float, state: RunState) -> None:
        """Write the state after ``step`` steps that took ``seconds``; the old file stays until the new one is whole."""
        tensors = {_PARAMETER + name: tensor.detach() for name, tensor in state.tensors.items()}
        for index, moments in state.optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}/{key}": value for key, value in moments.items()}
        tensors[_LOSSES] = state.losses[:step]
        header = {
            "step": step,
            "seconds": seconds,
            "fingerprint": self._fingerprint,
            "scheduler": state.scheduler.state_dict(),
            "extra": {
                "scaler": state.scaler.state_dict(),
                "remember": state.remember.dump() if state.remember else None,
            },
        }
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.path, save(content, metadata={"state": json.dumps(header)}))

    def restore(self, state: RunState) -> tuple[int, float]:
        """Put everything back as it was saved.

        Returns:
            How many steps were done, and in how many seconds.

        Raises:
            RunError: The file is damaged, or belongs to a run with other settings or other images.
        """
        header, tensors = self._read()
        if header["fingerprint"] != self._fingerprint:
            raise RunError(
                f"{self.path}: this checkpoint was made with other settings or other images; resume with the "
                "same command that started the run, or start anew with another --out."
            )
        with torch.no_grad():
            for name, tensor in state.tensors.items():
                tensor.copy_(tensors[_PARAMETER + name])
        _restore_optimizer(state, tensors, header["scheduler"])
        step = int(header["step"])
        state.losses[:step] = tensors[_LOSSES].to(state.losses)
        extra = header["extra"]
        if extra["scaler"]:
            state.scaler.load_state_dict(extra["scaler"])
        if state.remember:
            state.remember.load(extra["remember"])
        return step, float(header["seconds"])

    def first_start(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what was decided when this run was started for the first time.

        Args:
            name: What is decided.
            decide: Called where nothing was decided yet; returns a JSON-ready value, which is kept in a small file
                beside the checkpoint.

        Raises:
            RunError: That file is damaged.
        """
        kept: Mapping[str, Any] = self._read_start() if self._start.exists() else {}
        facts = dict(kept["facts"]) if kept.get("fingerprint") == self._fingerprint else {}
        if name not in facts:
            facts[name] = decide()
            write_json(self._start, {"fingerprint": self._fingerprint, "facts": facts})
        return facts[name]

    def part(self, name: str) -> Checkpoint:
        """Return where a part of the run keeps its own state, of a run that trains several times.

        Args:
            name: Of the part: letters, digits and hyphens.
        """
        return Checkpoint(
            self.path.with_name(f"{self.path.stem}.{name}{self.path.suffix}"), f"{self._fingerprint} {name}"
        )

    def keep(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write what was found, in the place of a state; an older file stays until the new one is whole.

        Args:
            tensors: By name.
            facts: JSON-ready values.
        """
        header = {"fingerprint": self._fingerprint, "facts": facts}
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.path, save(content, metadata={"state": json.dumps(header)}))

    def kept(self) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]] | None:
        """Return what ``keep`` wrote for this very run; None where there is nothing.

        Raises:
            RunError: The file is damaged.
        """
        if not self.path.exists():
            return None
        header, tensors = self._read()
        if header["fingerprint"] != self._fingerprint:
            return None
        facts: Mapping[str, Any] = header["facts"]
        return tensors, facts

    @property
    def began(self) -> bool:
        """Whether anything is kept to go on from, of the run or of a part of it."""
        return any(True for _ in self._files())

    def remove(self) -> None:
        """Delete the checkpoint, what was kept of the first start, and all that parts of the run kept."""
        for path in self._files():
            path.unlink(missing_ok=True)
        self._start.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Return the files of the run and of its parts, but for this one's first start."""
        stem, suffix = self.path.stem, self.path.suffix
        found = [
            path
            for path in self.path.parent.glob("*")
            if path.name.startswith(f"{stem}.") and path.name.endswith((suffix, ".start.json"))
        ]
        return [path for path in found if path != self._start]

    def _read_start(self) -> Mapping[str, Any]:
        try:
            kept: Mapping[str, Any] = json.loads(self._start.read_text(encoding="utf-8"))
            kept["fingerprint"], kept["facts"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self._start}: this file is damaged ({error}); delete it to start the run anew."
            ) from error
        return kept

    def _read(self) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]:
        """Return the header's JSON and copies of all tensors, so that nothing keeps the file open or mapped."""
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self.path}: this checkpoint is damaged ({error}); delete it to start the run anew."
            ) from error
        return header, tensors


def _restore_optimizer(
    state: RunState, tensors: Mapping[str, torch.Tensor], scheduler: Mapping[str, Any]
) -> None:
    """Put the optimizer's moments and the schedule's place back; the groups stay as they are built."""
    optimizer = state.optimizer
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split("/")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    state.scheduler.load_state_dict(dict(scheduler))
    for group, lr in zip(optimizer.param_groups, state.scheduler.get_last_lr(), strict=True):
        group["lr"] = lr
