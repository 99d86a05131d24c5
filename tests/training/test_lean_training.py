"""Training when memory runs out, and when a tower need not be run again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from blocklora.adapter import BlockLoraConfig, param_groups
from blocklora.clip.towers import LeanTowers
from blocklora.core.device import Compute
from blocklora.training import Checkpoint, Plan, Training, train

CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "9000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
OUT_OF_MEMORY: dict[str, Callable[[], RuntimeError]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "linux": lambda: RuntimeError(CPU_ERROR),
    "windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)."),
}
PLANS = (Plan(), Plan("no-mlp", "no-mlp"), Plan("inputs", "inputs"), Plan("inputs", "inputs", 2, 2))
STEPS, LR, SEED = 6, 1e-2, 3


class Images:
    """Seven images in batches of three, as ``TrainingImages`` gives them."""

    batch_size = 3

    def __init__(self, pixels: Tensor, fixed: bool) -> None:
        self.pixels, self.fixed = torch.cat([pixels, 0.5 * pixels[:2]]), fixed

    def indices(self, step: int) -> list[int]:
        return [[0, 4, 2], [5, 1, 6], [3]][step % 3]

    own_indices = indices

    def part(self, step: int) -> tuple[int, int]:
        return 0, len(self.indices(step))

    def labels(self, step: int) -> Tensor:
        return torch.tensor(self.indices(step)) % 3

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.pixels[self.indices(step)], self.labels(step)

    def all_pixels(self, size: int) -> Any:
        return iter(torch.split(self.pixels, size))


class Recording(LeanTowers):
    """Lean towers that count what goes through them, and fail when told to."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.image_counts: list[int] = []
        self.prompts: list[int] = []
        self.keeps: list[str] = []
        self.fail: Callable[[str, Any], None] = lambda tower, keep: None

    def images(self, pixel_values: Tensor, **more: Any) -> Tensor:
        self.image_counts.append(len(pixel_values))
        self.keeps.append(more.get("keep", "all"))
        self.fail("vision", more.get("keep"))
        return super().images(pixel_values, **more)

    def texts(self, one_pass: Any, **more: Any) -> Tensor:
        self.prompts.append(len(one_pass.ends))
        self.fail("text", more.get("keep"))
        return super().texts(one_pass, **more)


class Job:
    """A training run on a very small random CLIP."""

    def __init__(self, random_clip: Any, config: Any = None, *, fixed: bool = False) -> None:
        config = config or LoraConfig(r=2, lora_dropout=0.25, target_modules=["q_proj", "v_proj", "fc2"])
        self.case = random_clip(config, dtype=torch.float32)
        self.towers = Recording(self.case.model)
        self.images = Images(self.case.pixels, fixed)

    def run(self, plans: Any = PLANS, **more: Any) -> Training:
        compute = Compute(torch.device("cpu"), "fp32")
        groups = param_groups(self.case.model, lr=LR, weight_decay=0.0)
        return train(
            self.towers, groups, self.case.tokens, self.images, compute,
            iterations=STEPS, lr=LR, seed=SEED, plans=plans, **more,
        )  # fmt: skip

    def adapter(self) -> Tensor:
        return torch.cat([value.detach().flatten() for value in self.case.trained().values()])


def failing(
    error: Callable[[], RuntimeError], *times: int, tower: str = "vision"
) -> Callable[[str, Any], None]:
    """Fail at so many calls of a tower."""
    calls = iter(range(10**6))

    def fail(which: str, keep: Any) -> None:
        if which == tower and next(calls) in times:
            raise error()

    return fail


@pytest.mark.parametrize("kind", list(OUT_OF_MEMORY))
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_out_of_memory_and_on_with_the_next_plan(
    random_clip: Any, caplog: pytest.LogCaptureFixture, kind: str, tower: str
) -> None:
    whole = Job(random_clip)
    wanted = whole.run()
    assert (wanted.plan, wanted.notes) == (Plan(), ())
    job = Job(random_clip)
    job.towers.fail = failing(OUT_OF_MEMORY[kind], 2, tower=tower)
    result = job.run()
    assert result.plan == PLANS[1]
    assert result.notes == (f"memory ran out at step 3; it went on like this: {PLANS[1]}",)
    assert caplog.messages == list(result.notes)
    # The level does not change what a step computes: it is as if nothing had happened.
    torch.testing.assert_close(result.losses, wanted.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(job.adapter(), whole.adapter(), rtol=1e-3, atol=1e-5)
    assert set(job.towers.keeps) == {"all", "no-mlp"}


def test_out_of_memory_again_and_again(random_clip: Any) -> None:
    job = Job(random_clip)
    job.towers.fail = failing(OUT_OF_MEMORY["cuda"], 0, 1, 3)
    result = job.run()
    assert result.plan == PLANS[3]
    assert [note.split(";")[0] for note in result.notes] == [
        "memory ran out at step 1",
        "memory ran out at step 1",
        "memory ran out at step 2",
    ]
    assert torch.isfinite(result.losses).all()
    assert job.towers.prompts[-6:] == [2] * 6  # forward and again, in chunks


def test_gradients_of_a_step_that_failed_halfway_are_gone(random_clip: Any) -> None:
    """In micro-batches the first has left its gradient when the second fails."""
    plans = (Plan(micro_batch=2), Plan("inputs", "inputs", micro_batch=2))
    whole, job = Job(random_clip), Job(random_clip)
    wanted = whole.run(plans)
    job.towers.fail = failing(OUT_OF_MEMORY["cuda"], 1)
    result = job.run(plans)
    assert result.plan == plans[1]
    torch.testing.assert_close(result.losses, wanted.losses, rtol=1e-5, atol=1e-6)


def test_no_plan_is_left(random_clip: Any) -> None:
    job = Job(random_clip)
    job.towers.fail = failing(OUT_OF_MEMORY["cuda"], 0, 1)
    with pytest.raises(torch.OutOfMemoryError):
        job.run(PLANS[:2])


def test_another_error_is_not_memory(random_clip: Any) -> None:
    job = Job(random_clip)
    job.towers.fail = failing(lambda: RuntimeError("mat1 and mat2 do not fit"), 1)
    with pytest.raises(RuntimeError, match="do not fit"):
        job.run()


def test_a_resumed_run_keeps_its_plan(random_clip: Any, tmp_path: Path) -> None:
    failures = (OUT_OF_MEMORY["cuda"], 0, 1, 2)
    whole = Job(random_clip)
    whole.towers.fail = failing(*failures)
    wanted = whole.run()
    assert wanted.plan == PLANS[3]
    state = Checkpoint(tmp_path / "state.safetensors", "print")

    def press_ctrl_c(step: int, *_: float) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    cut = Job(random_clip)
    cut.towers.fail = failing(*failures)
    with pytest.raises(KeyboardInterrupt):
        cut.run(checkpoint=state, on_step=press_ctrl_c)
    resumed = Job(random_clip)
    result = resumed.run(checkpoint=state)
    assert (result.plan, result.notes) == (wanted.plan, wanted.notes)
    assert torch.equal(result.losses, wanted.losses)
    assert torch.equal(resumed.adapter(), whole.adapter())
    assert set(resumed.towers.keeps) == {"inputs"}
    # What had failed already is not tried again.
    state.remove()
    cut = Job(random_clip)
    cut.towers.fail = failing(OUT_OF_MEMORY["cuda"], 0)
    with pytest.raises(KeyboardInterrupt):
        cut.run(checkpoint=state, on_step=press_ctrl_c)
    again = Job(random_clip)
    again.towers.fail = failing(OUT_OF_MEMORY["cuda"], 0)
    assert again.run(checkpoint=state).plan == PLANS[2]
    # A plan of another machine's is kept too.
    state.remove()
    cut = Job(random_clip)
    cut.towers.fail = failing(OUT_OF_MEMORY["cuda"], 0)
    strange = replace(PLANS[1], micro_batch=3)
    with pytest.raises(KeyboardInterrupt):
        cut.run((Plan(), strange), checkpoint=state, on_step=press_ctrl_c)
    assert Job(random_clip).run(PLANS, checkpoint=state).plan == strange


def only(tower: str) -> BlockLoraConfig:
    return BlockLoraConfig(r=2, n_blocks=1, init_weights=False, target_modules=rf".*{tower}_model.*[qv]_proj")


@pytest.mark.parametrize("plan", [Plan(), Plan(chunk=2, micro_batch=2)])
def test_an_image_tower_that_is_not_trained_sees_every_fixed_image_once(random_clip: Any, plan: Plan) -> None:
    job = Job(random_clip, only("text"), fixed=True)
    result = job.run([plan])
    assert sum(job.towers.image_counts) == 7
    assert max(job.towers.image_counts) <= (plan.micro_batch or 3)  # no more at a time than in a step
    moving = Job(random_clip, only("text"), fixed=False)
    torch.testing.assert_close(result.losses, moving.run([plan]).losses, rtol=1e-5, atol=1e-6)
    assert sum(moving.towers.image_counts) == STEPS // 3 * 7


@pytest.mark.parametrize("plan", [Plan(), Plan(chunk=2)])
def test_a_text_tower_that_is_not_trained_reads_every_prompt_once(random_clip: Any, plan: Plan) -> None:
    job = Job(random_clip, only("vision"), fixed=True)
    job.run([plan])
    assert sum(job.towers.prompts) == len(job.case.tokens)
    assert sum(job.towers.image_counts) == STEPS // 3 * 7  # it is trained: no cache


def test_a_trained_tower_is_run_in_every_step(random_clip: Any) -> None:
    job = Job(random_clip, fixed=True)
    job.run([Plan()])
    assert job.towers.prompts == [6] * STEPS
    assert job.towers.image_counts == [3, 3, 1] * 2
