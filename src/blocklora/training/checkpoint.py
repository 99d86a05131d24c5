"""The state of a training run in one safetensors file, always whole.

torch saves optimizer state by pickle, which blocklora neither writes nor reads; so the few
tensors of it are stored by name, and the plain numbers as JSON in the file's header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from blocklora.core.errors import RunError
from blocklora.core.files import write_bytes, write_json

__all__ = ["Checkpoint"]

_PARAMETER, _OPTIMIZER, _LOSSES = "parameter/", "optimizer/", "losses"


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

    def save(
        self,
        step: int,
        seconds: float,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        losses: torch.Tensor,
        extra: dict[str, Any],
    ) -> None:
        """Write the state after ``step`` steps that took ``seconds``; the old file stays until the new one is whole.

        ``extra`` holds what else goes back unchanged, as JSON-ready values.
        """
        tensors = {_PARAMETER + name: parameter.detach() for name, parameter in parameters.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}/{key}": value for key, value in state.items()}
        tensors[_LOSSES] = losses[:step]
        header = {
            "step": step,
            "seconds": seconds,
            "fingerprint": self._fingerprint,
            "scheduler": scheduler.state_dict(),
            "extra": extra,
        }
        content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.path, save(content, metadata={"state": json.dumps(header)}))

    def restore(
        self,
        parameters: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        losses: torch.Tensor,
    ) -> tuple[int, float, dict[str, Any]]:
        """Put everything back as it was saved.

        Returns:
            How many steps were done, in how many seconds, and ``extra``.

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
            for name, parameter in parameters.items():
                parameter.copy_(tensors[_PARAMETER + name])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                index, key = name.removeprefix(_OPTIMIZER).split("/")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        scheduler.load_state_dict(header["scheduler"])
        for group, lr in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = lr
        step = int(header["step"])
        losses[:step] = tensors[_LOSSES].to(losses)
        return step, float(header["seconds"]), header["extra"]

    def first_start(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return what was decided when this run was started for the first time.

        Args:
            facts: What is decided now, as JSON-ready values; kept in a small file beside the checkpoint if this is the
                first start.

        Raises:
            RunError: That file is damaged.
        """
        if self._start.exists():
            kept = self._read_start()
            if kept["fingerprint"] == self._fingerprint:
                found: dict[str, Any] = kept["facts"]
                return found
        write_json(self._start, {"fingerprint": self._fingerprint, "facts": facts})
        return facts

    def remove(self) -> None:
        """Delete the checkpoint and what was kept of the first start, if they are there."""
        self.path.unlink(missing_ok=True)
        self._start.unlink(missing_ok=True)

    def _read_start(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._start.read_text(encoding="utf-8"))
            kept["fingerprint"], kept["facts"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self._start}: this file is damaged ({error}); delete it to start the run anew."
            ) from error
        return kept

    def _read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
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
