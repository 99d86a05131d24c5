"""Checkpoints without pickle: tensors in one safetensors file, numbers in its JSON header, written whole or not."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer


def save_whole(tensors: Mapping[str, Tensor], path: Path, record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON record to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    save_file(copies, part, metadata={"record": json.dumps(dict(record))})
    part.replace(path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and the record."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata.get("record", "{}"))


def optimiser_tensors(optimisers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Return all state of the optimisers as ``optimiser.{o}.{parameter}.{name}``."""
    out = {}
    for o, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                out[f"optimiser.{o}.{index}.{name}"] = torch.as_tensor(value)
    return out


def restore_optimisers(optimisers: Sequence[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give the optimisers the state that :func:`optimiser_tensors` took."""
    for o, optimiser in enumerate(optimisers):
        prefix = f"optimiser.{o}."
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(prefix):
                index, field = name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(index), {})[field] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Run:
    """A training run that can be cut off and taken up again at its last checkpoint.

    Args:
        folder: where ``last.safetensors`` (while training) and ``final.safetensors`` (at the end) lie.
        modules: everything with weights, by name.
        optimisers: everything with state.
    """

    def __init__(
        self, folder: Path, modules: Mapping[str, nn.Module], optimisers: Sequence[Optimizer]
    ) -> None:
        self.last, self.final = folder / "last.safetensors", folder / "final.safetensors"
        self.modules, self.optimisers = modules, optimisers

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{m}.{name}": t for m, module in self.modules.items() for name, t in module.state_dict().items()
        }

    def resume(self) -> dict[str, Any]:
        """Restore the last checkpoint if there is one; return its record, or an empty one."""
        if not self.last.exists():
            return {}
        tensors, record = load(self.last)
        for m, module in self.modules.items():
            prefix = m + "."
            module.load_state_dict(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
        restore_optimisers(self.optimisers, tensors)
        return record

    def save(self, record: Mapping[str, Any]) -> None:
        """Write a checkpoint from which training can go on."""
        save_whole({**self._weights(), **optimiser_tensors(self.optimisers)}, self.last, record)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the final weights alone and drop the last checkpoint."""
        save_whole(self._weights(), self.final, record)
        self.last.unlink(missing_ok=True)


def load_final(folder: Path, module: nn.Module, name: str) -> dict[str, Any]:
    """Load the final weights of the module called ``name`` from a finished run; return the run's record."""
    tensors, record = load(folder / "final.safetensors")
    prefix = name + "."
    module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    return record
