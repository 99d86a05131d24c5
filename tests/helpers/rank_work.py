"""Real processes that share a step or a run, as torchrun starts them; and what they do in the tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from random_clip import RandomClip
from safetensors.torch import save_file
from torch import Tensor

from blocklora.adapter import BlockLoraConfig
from blocklora.clip.towers import LeanTowers, trains
from blocklora.core.errors import BlockloraError, ConfigError
from blocklora.core.ranks import ALONE, Ranks, joined_ranks
from blocklora.run.fit import fit_run
from blocklora.training import loop
from blocklora.training.distributed import add_gradients
from blocklora.training.softmax import ALL_HERE, Shared, cross_entropy_sum
from blocklora.training.step import ClassFeatures, Plan, gradient

BOTH = ["q_proj", "v_proj", "out_proj", "fc2"]
ONE_TOWER = r".*{}_model.*\.(q_proj|fc2)"
CASES: dict[str, tuple[Plan, float, torch.dtype, str | list[str]]] = {
    "one pass": (Plan(), 0.0, torch.float64, BOTH),
    "one pass, dropout": (Plan(), 0.4, torch.float64, BOTH),
    "one pass, dropout of quarters": (Plan(), 0.25, torch.float64, BOTH),
    "cut, dropout": (Plan("inputs", "no-mlp", micro_batch=2, chunk=4), 0.25, torch.float64, BOTH),
    "fine cuts, dropout": (Plan(micro_batch=1, chunk=1), 0.4, torch.float64, BOTH),
    "images alone": (Plan(micro_batch=3), 0.25, torch.float64, ONE_TOWER.format("vision")),
    "texts alone": (Plan(micro_batch=3, chunk=4), 0.25, torch.float64, ONE_TOWER.format("text")),
    "float32, dropout": (Plan(chunk=4), 0.25, torch.float32, BOTH),
}


_SERVER = multiprocessing.get_context(
    "forkserver"
)  # imports once, and has run no backward, which no fork survives
_SERVER.set_forkserver_preload(["rank_work"])


def _start_server() -> None:
    """Start the process that imports and is forked, with this one's paths: Python 3.11 and 3.12 do not pass them on."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def processes(function: str, count: int, *arguments: str) -> list[int]:
    """Run a function of this module in so many processes that know of each other, and return their exit codes."""
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        _SERVER.Process(target=_child, args=(rank, count, port, function, arguments)) for rank in range(count)
    ]
    for one in started:
        one.start()
    for one in started:
        one.join(300)
        one.kill()  # where it hangs
        one.join()
    return [int(one.exitcode or 0) for one in started]


def _child(rank: int, count: int, port: int, function: str, arguments: tuple[str, ...]) -> None:
    """Be a rank, as torchrun would have it."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in values.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    globals()[function](*arguments)


def step_of(name: str, ranks: Ranks = ALONE) -> dict[str, Tensor]:
    """Return the loss and the gradients of a case, of this rank's images and classes and those of all others."""
    plan, dropout, dtype, targets = CASES[name]
    config = BlockLoraConfig(
        r=4, n_blocks=2, lora_dropout=dropout, init_weights=False,
        target_modules=targets,
    )  # fmt: skip
    case = RandomClip(config, dtype=dtype)
    case.model.train()
    towers = LeanTowers(case.model)
    trained = trains(case.model.text_model)
    text = ClassFeatures(towers, case.tokens, trained=trained, plan=plan, ranks=ranks)
    first, last = ranks.share(len(case.pixels))
    loss = gradient(
        towers, case.pixels[first:last], case.labels[first:last], text, case.model.logit_scale.detach().exp(),
        plan, torch.autograd.backward, seed=2, step=5, of=len(case.pixels),
    )  # fmt: skip
    loss = add_gradients(list(case.trained().values()), loss, ranks)
    found = {name: value for name, value in case.gradients().items() if value is not None}
    return {"loss": loss, **found}


def steps(out: str) -> None:
    """Write what every rank finds in every case."""
    with joined_ranks("cpu") as ranks:
        for place, name in enumerate(CASES):
            save_file(step_of(name, ranks), f"{out}/{place}.{ranks.rank}.safetensors")


def softmax_of(
    dtype: torch.dtype, ranks: Ranks = ALONE, sizes: tuple[int, ...] = (0, 4, 1)
) -> dict[str, Tensor]:
    """Return the loss of 5 images and 20 classes, and its gradients in this rank's own; the last rank has no class."""
    draw = torch.Generator().manual_seed(4)
    images, classes = (
        torch.nn.functional.normalize(torch.randn(n, 6, generator=draw, dtype=dtype), dim=1) for n in (5, 20)
    )
    labels, scale = torch.tensor([19, 0, 7, 7, 12]), torch.tensor(30.0, dtype=dtype)
    if ranks.count == 1:
        own, mine, shared = slice(None), torch.arange(20), ALL_HERE
    else:
        start = sum(sizes[: ranks.rank])
        own, mine = (
            slice(start, start + sizes[ranks.rank]),
            torch.arange(20)[ranks.rank :: 2][: [10, 10, 0][ranks.rank]],
        )
        places = torch.full((20,), -1)
        places[mine] = torch.arange(len(mine))
        shared = Shared(ranks, sizes, places)
    pair = images[own].requires_grad_(), classes[mine].requires_grad_()
    loss = cross_entropy_sum(*pair, scale, labels[own], at_once=3, shared=shared)
    of_images, of_classes = torch.autograd.grad(3 * loss, pair)
    return {"loss": loss.detach(), "images": of_images, "classes": of_classes, "mine": mine.clone()}


def softmaxes(out: str) -> None:
    """Write what every rank finds of the softmax over classes that ranks share."""
    with joined_ranks("cpu") as ranks:
        for name in ("float64", "float32"):
            save_file(softmax_of(getattr(torch, name), ranks), f"{out}/{name}.{ranks.rank}.safetensors")


def messages(out: str) -> None:
    """Exchange values of every kind, and write what came."""
    with joined_ranks("cpu") as ranks:
        rows = torch.arange(3.0 * ranks.rank).reshape(ranks.rank, 3)
        stopped = ""
        try:
            ranks.on_first(_refuse)
        except BlockloraError as error:
            stopped = type(error).__name__
        found = {
            "told": ranks.on_first(lambda: {"by": ranks.rank}),
            "collected": ranks.collect(["é" * ranks.rank, ranks.rank]),
            "gathered": ranks.gather(rows).tolist(),
            "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
            "most": ranks.most(torch.tensor([1.0, ranks.rank])).tolist(),
            "sum": ranks.sum(torch.tensor([1.0, ranks.rank])).tolist(),
            "stopped": stopped,
        }
    Path(out, f"{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _refuse() -> None:
    raise ConfigError("no")


def fit(out: str, given: str) -> None:
    """Fit a run together; ``dies`` and ``stops`` name the rank that is killed or interrupted in the third step."""
    options = json.loads(given)
    dies, stops = options.pop("dies", None), options.pop("stops", None)
    with joined_ranks("cpu") as ranks:
        if ranks.rank in (dies, stops):
            _signal_in_step(3, signal.SIGKILL if dies is not None else signal.SIGINT)
        try:
            fit_run(options.pop("data"), Path(out), ranks=ranks, **options)
        except (BlockloraError, KeyboardInterrupt) as error:
            said = f"{type(error).__name__}: {error}"
            Path(out).with_suffix(f".{ranks.rank}.txt").write_text(said, encoding="utf-8")


def _signal_in_step(number: int, which: int) -> None:
    """Send this process a signal when it computes the gradient of a step, counted from 0."""
    compute = loop.gradient

    def gradient_then(*given: Any, step: int, **more: Any) -> Tensor:
        if step == number:
            os.kill(os.getpid(), which)
        return compute(*given, step=step, **more)

    loop.gradient = gradient_then
