"""Blocks of images on Ray Data: actors that load the run once, each at one block at a time.

Only the numbers of blocks travel; an actor reads names and images itself, and writes its part. Where a process or a
node is lost, Ray starts another process, which does the block again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from blocklora.core.on_ray import connect
from blocklora.run.load import load_run
from blocklora.run.table.blocks import BlockOrder, do_block, open_blocks

__all__ = ["predict_on_ray"]

_MOST_CPUS = 8  # of an actor; more gain little


class _BlockActor:
    """One process that answers blocks.

    Args:
        order: What is asked for.
        cpus: Cores to compute with.
        model: Where the base model is now.
    """

    def __init__(self, order: BlockOrder, cpus: int, model: str | None) -> None:
        torch.set_num_threads(cpus)
        self._order, self._run = order, load_run(order.run, model=model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the blocks of a batch; it has one."""
        return {"images": [do_block(self._order, self._run, int(place)) for place in batch["item"]]}


def predict_on_ray(
    order: BlockOrder,
    address: str,
    *,
    model: str | None = None,
    on_block: Callable[[int, int], None] | None = None,
) -> int:
    """Answer all blocks that are missing, and return how many images there are.

    Args:
        order: What is asked for.
        address: See ``connect``.
        model: Where the base model is now, if it has moved.
        on_block: Called with the number of images that are done, and of all.

    Raises:
        ConfigError: Ray is missing, or there is no such cluster, or it has no room.
    """
    with open_blocks(order) as (n_images, missing), connect(address) as ray:
        done = n_images - sum(min(order.block, n_images - place * order.block) for place in missing)
        if on_block:
            on_block(done, n_images)
        if not missing:
            return n_images
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        cpus = max(1, min(_MOST_CPUS, *(int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1)))
        actors = gpus or sum(int(node.get("CPU", 0)) // cpus for node in nodes)
        ray.data.DataContext.get_current().enable_progress_bars = False  # there is a bar of ours
        results = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
            _BlockActor,
            fn_constructor_args=(order, cpus, model),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                size=min(actors, len(missing)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=0 if gpus else cpus,
            num_gpus=1 if gpus else 0,
        )
        for row in results.iter_rows():
            done += int(row["images"])
            if on_block:
                on_block(done, n_images)
        return n_images
