"""The processes that share one run, started by torchrun: which one this is, and what they tell each other.

A process is called a rank, as torch.distributed calls it. Rank 0 alone prints and writes. Axes: M = rows of all ranks
together, in the order of the ranks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blocklora.core.errors import ConfigError, LostRankError, RankStoppedError

__all__ = ["ALONE", "Ranks", "joined_ranks", "started_ranks"]


class Ranks:
    """The ranks of a run. What a rank does in common with the others, all of them must do, in the same order.

    Args:
        rank: Which one this is, from 0.
        count: How many there are; of 1 nothing is exchanged.
        local_count: How many of them share this machine.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_count: int = 1) -> None:
        self.rank, self.count, self.local_count = rank, count, local_count

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, n: int) -> tuple[int, int]:
        """Return the first of n things that is this rank's, and the first behind its own; all have about as many."""
        return n * self.rank // self.count, n * (self.rank + 1) // self.count

    def sum(self, value: Tensor) -> Tensor:
        """Add up a tensor of any shape over the ranks, in place; every rank gets the same bits."""
        if self.count > 1:
            _exchange(dist.all_reduce, value)
        return value

    def most(self, value: Tensor) -> Tensor:
        """Take the largest over the ranks of every number of a tensor of any shape, in place."""
        if self.count > 1:
            _exchange(partial(dist.all_reduce, op=dist.ReduceOp.MAX), value)
        return value

    def gather(self, own: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Put the rows of all ranks behind one another.

        Args:
            own: This rank's rows (m, ...), no gradient; m may differ from rank to rank, and may be 0.
            sizes: The m of every rank, if that is known.

        Returns:
            (M, ...).
        """
        if self.count == 1:
            return own
        if sizes is None:
            shapes = self.collect(list(own.shape))
            sizes = [shape[0] for shape in shapes]
            like = next((shape for shape in shapes if shape[0]), shapes[0])
            own = own.reshape(len(own), *like[1:])  # of no rows the other axes may be unknown
        most = own.new_zeros(max(sizes), *own.shape[1:])
        most[: len(own)] = own
        parts = [torch.empty_like(most) for _ in sizes]
        _exchange(dist.all_gather, parts, most)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def collect(self, value: Any) -> list[Any]:
        """Return what every rank gives, in their order; values are ready for JSON."""
        if self.count == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.count, dtype=torch.int64)
        sizes[self.rank] = len(own)
        found = self.gather(own, self.sum(sizes).tolist())
        return [json.loads(bytes(part.tolist())) for part in torch.split(found, sizes.tolist())]

    def any(self, flag: bool) -> bool:
        """Return whether any rank says yes."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag))))

    def on_first(self, work: Callable[[], Any]) -> Any:
        """Let rank 0 do something, and return on every rank what came of it, which is ready for JSON.

        Raises:
            BlockloraError: On rank 0, what ``work`` raises; on the others a ``RankStoppedError``.
        """
        if self.count == 1:
            return work()
        found = failure = None
        if self.first:
            try:
                found = work()
            except Exception as error:
                failure = error
        told = self.collect({"found": found, "failed": failure is not None} if self.first else None)[0]
        if failure is not None:
            raise failure
        if told["failed"]:
            raise RankStoppedError("rank 0 has stopped; it says why.")
        return told["found"]


ALONE = Ranks()
"""One process, as ever."""


def started_ranks() -> int:
    """Return how many processes the environment says were started."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started; without torchrun there are none.

    Args:
        device: As ``resolve_device`` takes it; each rank of a machine gets a GPU of its own.

    Raises:
        ConfigError: There are more ranks than GPUs, or a launcher started processes without saying which is which.
    """
    if not (told := os.environ.get("WORLD_SIZE", "1")).isdecimal():
        raise ConfigError(
            f"WORLD_SIZE '{told}': expected a number of processes; unset it, or start with torchrun."
        )
    if started_ranks() == 1:
        yield ALONE
        return
    try:
        rank, count, local, here = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{started_ranks()} processes were started, but {error} is missing or no number: start them with torchrun."
        ) from error
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        if device not in ("auto", "cuda") or here > torch.cuda.device_count():
            raise ConfigError(
                f"{here} processes on this machine with device '{device}' and {torch.cuda.device_count()} GPUs: "
                "expected --device auto or cuda, and no more processes than GPUs."
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield Ranks(rank, count, here)
    finally:
        dist.destroy_process_group()


def _exchange(collective: Callable[..., Any], *tensors: Any) -> None:
    """Run a collective of torch.distributed.

    Raises:
        LostRankError: It failed, as it does where another rank has ended.
    """
    try:
        collective(*tensors)
    except RuntimeError as error:
        raise LostRankError(
            "another process of this run has ended, and this one stops; the state is kept: go on with the same command "
            "and --resume, on as many processes as you like."
        ) from error
