"""Runs on a Ray cluster: Ray places them; what a crashed process or a lost node took away is done again.

The results come back to the process that leads the bench, which alone writes them. Data sets and local models must lie
at the same paths on every node. Where RESULTS is shared as well, a run goes on from its checkpoint on another node.
"""

from __future__ import annotations

import math
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from blocklora.bench.executors.executor import OnStep, Outcome, WorkItem
from blocklora.bench.executors.processes import NEED_BYTES
from blocklora.bench.grid import Grid, GridRun
from blocklora.bench.records import Machine, RunResult
from blocklora.bench.work import RunOrder, WorkSettings, describe_machine, do_run
from blocklora.core.errors import ConfigError
from blocklora.core.on_ray import connect
from blocklora.core.resources import Resources, format_bytes
from blocklora.methods import METHODS
from blocklora.run.plan import plan_step

__all__ = ["RayCluster", "Share", "gpu_share", "ray_cluster", "runs_at_once"]

_ATTEMPTS, _CRASHES = 2, 3
_PLANNED = ("block-lora", "clip-lora")  # whose memory can be planned
_MARGIN, _STEPS = 1.2, 20  # of memory over what is planned; a share of a GPU is a multiple of 1 / 20


@dataclass(frozen=True)
class Share:
    """What one run is given.

    Attributes:
        cpus: Cores.
        memory_bytes: Host memory.
        gpus: Of a GPU, 0 to 1.
        gpu_bytes: Of its memory, where the run's step can be planned within it.
    """

    cpus: int
    memory_bytes: int
    gpus: float = 0.0
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class RayCluster:
    """An ``Executor`` of a Ray cluster.

    Attributes:
        n_workers: How many runs fit at once now; Ray takes nodes in that come later.
        machine: This one, for failures; a finished run's is where it was done.
        settings: What all runs share, but for their resources.
        shares: What each run is given, by its key.
    """

    n_workers: int
    machine: Machine
    settings: WorkSettings
    shares: Mapping[str, Share]

    def outcomes(self, orders: Sequence[RunOrder], on_step: OnStep) -> Generator[Outcome, None, None]:
        """See ``Executor``; steps are not told, as they would have to travel."""
        import ray

        remote = ray.remote(max_retries=0)(_do_on_node)
        waiting: dict[Any, _Try] = {}

        def submit(one: _Try) -> None:
            share = self.shares[one.order.key]
            wanted = remote.options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                memory=share.memory_bytes,
                scheduling_strategy="SPREAD",
            )
            waiting[wanted.remote(self.settings, share, self.n_workers, one.order, one.errors + 1)] = one

        try:
            for order in orders:
                submit(_Try(order, time.monotonic()))
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                one = waiting.pop(ready)
                answer = _answer(ready, one)
                if answer.error is not None and one.may_go_on:
                    submit(replace(one, began=time.monotonic()))
                else:
                    yield answer
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)


@dataclass
class _Try:
    """A run that is on its way.

    Attributes:
        order: The run.
        began: When it was given to Ray.
        errors: How often it failed by itself.
        crashes: How often its process or node was lost.
    """

    order: RunOrder
    began: float
    errors: int = 0
    crashes: int = 0

    @property
    def may_go_on(self) -> bool:
        """Whether it is tried again."""
        return self.errors < _ATTEMPTS and self.crashes < _CRASHES


def _answer(ref: Any, one: _Try) -> Outcome:
    """Fetch what became of a try, and count it if it failed."""
    import ray

    try:
        found, machine, seconds = ray.get(ref)
    except ray.exceptions.RayError as error:
        one.crashes += 1
        reason = next(iter(str(error).strip().splitlines()), "")
        item = WorkItem(one.order, one.errors + one.crashes)
        text = f"the process or its node was lost ({type(error).__name__}: {reason})"
        return Outcome(item, error=text, seconds=time.monotonic() - one.began)
    one.errors += isinstance(found, tuple)
    item = WorkItem(one.order, one.errors + one.crashes + (not isinstance(found, tuple)))
    if isinstance(found, tuple):
        return Outcome(item, error=found[0], trace=found[1], seconds=seconds, machine=machine)
    return Outcome(item, answer=found, seconds=seconds, machine=machine)


def _do_on_node(
    settings: WorkSettings, share: Share, n_workers: int, order: RunOrder, attempt: int
) -> tuple[RunResult | tuple[str, str], Machine, float]:
    """Do a run in a process of Ray's; return the result, or the error and its traceback."""
    import ray

    began = time.monotonic()
    gpus = tuple(str(one) for one in ray.get_gpu_ids())
    names = tuple(torch.cuda.get_device_name(place) for place in range(len(gpus)))
    machine = describe_machine(share.cpus, names, n_workers, share.cpus)
    own = replace(settings, resources=Resources(share.cpus, share.memory_bytes), gpus=gpus)
    if share.gpu_bytes and "memory_limit" not in order.arguments:
        limit = {"memory_limit": f"{share.gpu_bytes // 10**6}MB"}
        order = replace(order, arguments={**order.arguments, **limit})
    with tempfile.TemporaryDirectory() as place:
        if not order.folder.parent.is_dir():  # RESULTS is not shared with this node
            order = replace(order, folder=Path(place) / "run")
            own = replace(own, features=Path(place) / "features")
        try:
            return do_run(own, 0, order, attempt, lambda *_: None), machine, time.monotonic() - began
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            return (text, traceback.format_exc()), machine, time.monotonic() - began


@contextmanager
def ray_cluster(
    address: str, plan: Grid, missing: Sequence[GridRun], weight_bytes: int, classes: int, features: Path
) -> Iterator[RayCluster]:
    """Connect to a cluster for the time of a block, and choose what each run is given.

    Args:
        address: See ``connect``.
        plan: The grid.
        missing: The runs to do, at least one.
        weight_bytes: The largest model's weights.
        classes: The most classes of a data set.
        features: The folder of shared features.

    Raises:
        ConfigError: Ray is missing, there is no such cluster, or no node has room for a run.
    """
    with connect(address) as ray:
        shares, nodes = _shares(ray, missing, NEED_BYTES + 3 * weight_bytes, classes)
        fit = min(runs_at_once(nodes, share) for share in set(shares.values()))
        if not fit:
            raise ConfigError(_no_room(address, max(shares.values(), key=lambda share: share.gpus)))
        cpus, need = next((share.cpus, share.memory_bytes) for share in shares.values())
        settings = WorkSettings(Resources(cpus, need), (), features, plan.methods_from)
        yield RayCluster(min(fit, len(missing)), describe_machine(cpus, (), fit, cpus), settings, shares)


def _shares(
    ray: Any, missing: Sequence[GridRun], need: int, classes: int
) -> tuple[dict[str, Share], list[Mapping[str, float]]]:
    """Return what each run is given, and what the nodes have."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    cpus = max(1, min(max(cores, default=0), sum(cores) // len(missing)))
    gpu_bytes = _gpu_bytes(ray) if any(node.get("GPU", 0) for node in nodes) else 0
    shares = {}
    for run in missing:
        on_gpu = gpu_bytes and not str(run.arguments.get("device", "auto")).startswith(("cpu", "mps"))
        shares[run.key] = Share(cpus, need, *(gpu_share(run, classes, gpu_bytes) if on_gpu else (0.0, None)))
    return shares, nodes


def _no_room(address: str, share: Share) -> str:
    return (
        f"ray '{address}': no node has room for a run, which takes {share.cpus} CPU, "
        f"{format_bytes(share.memory_bytes)} of memory and {share.gpus:g} GPU; start larger nodes, or leave --ray out."
    )


def runs_at_once(nodes: Sequence[Mapping[str, float]], share: Share) -> int:
    """Return how many runs of one share the nodes have room for, by Ray's names of their resources."""
    wanted = {"CPU": share.cpus, "memory": share.memory_bytes, "GPU": share.gpus}
    return sum(
        min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount)
        for node in nodes
    )


def gpu_share(run: GridRun, classes: int, gpu_bytes: int) -> tuple[float, int | None]:
    """Return how much of a GPU a run is given, and how much of its memory, where that can be planned.

    Args:
        run: The run.
        classes: The most classes that it may have.
        gpu_bytes: The memory of a GPU.
    """
    method = str(run.arguments.get("method"))
    if method not in _PLANNED:
        return 1.0, None
    names = {one.name for one in fields(METHODS[method].settings)}
    own = {name: value for name, value in run.arguments.items() if name in names}
    step = plan_step(
        run.model,
        classes,
        method=method,
        memory=f"{gpu_bytes // 10**6}MB",
        device="cuda",
        shots=run.shots,
        **own,
    )
    steps = min(_STEPS, max(1, math.ceil(_STEPS * _MARGIN * step.chosen.peak_bytes / gpu_bytes)))
    return steps / _STEPS, steps * gpu_bytes // _STEPS


def _gpu_bytes(ray: Any) -> int:
    """Return the memory of a GPU of the cluster; they are taken to be alike."""
    found: int = ray.get(ray.remote(num_gpus=0.01)(_own_gpu_bytes).remote())
    return found


def _own_gpu_bytes() -> int:
    return int(torch.cuda.get_device_properties(0).total_memory)
