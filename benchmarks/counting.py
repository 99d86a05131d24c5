"""Counting what a training step computes and keeps: figures that no other process can disturb."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

__all__ = ["Counts", "count"]

_aten = torch.ops.aten


@dataclass(frozen=True)
class Counts:
    """What one step needs.

    Attributes:
        flops: Of all matrix products, attention's and convolutions' included; a multiply-add is two.
        saved: The most bytes that autograd held at a time: distinct storages, parameters and buffers left out.
    """

    flops: int
    saved: int


def count(step: Callable[[], Any], model: nn.Module) -> Counts:
    """Run a step once and count."""
    with FlopCounterMode(display=False, custom_mapping=_FLOPS) as counter, _held(model) as held:
        step()
    return Counts(counter.get_total_flops(), held.peak)


# torch's counter knows neither the in-place product nor attention on a CPU.
_FLOPS: dict[Any, Any] = {
    _aten.addmm_: lambda _, a, b, out_shape=None, **kw: 2 * a[0] * a[1] * b[1],
    _aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *args, out_shape=None, **kw: sdpa_flop_count(q, k, v)
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *args, out_shape=None, **kw: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


class _Box:
    """One tensor that autograd keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Held:
    """Storages that autograd holds now, and the most bytes that it has held."""

    def __init__(self, model: nn.Module) -> None:
        self._owned = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self._uses: Counter[int] = Counter()
        self._now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Box:
        box, storage = _Box(tensor), tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._owned:
            self._now += 0 if self._uses[address] else size
            self._uses[address] += 1
            self.peak = max(self.peak, self._now)
            weakref.finalize(box, self._free, address, size)
        return box

    def _free(self, address: int, size: int) -> None:
        self._uses[address] -= 1
        self._now -= 0 if self._uses[address] else size


@contextmanager
def _held(model: nn.Module) -> Iterator[_Held]:
    held = _Held(model)
    with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda box: box.tensor):
        yield held
