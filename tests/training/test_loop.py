"""The loop against one written from the formula, and runs that are cut off and go on."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image

from blocklora.adapter import BlockLoraConfig, param_groups
from blocklora.clip import load_clip, make_towers, tokenize
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError, RunError
from blocklora.data import Example
from blocklora.methods.adapters.common import _with_adapter
from blocklora.training import Checkpoint, TrainingImages, checkpoint, train
from blocklora.training.checkpoint import RunState
from blocklora.training.step import Plan

STEPS, LR, DECAY, SEED = 6, 5e-3, 1e-2, 3
TARGETS = r".*self_attn\.(q|k|v)_proj"
CONFIGS = {
    "blocks": lambda **more: BlockLoraConfig(
        r=4, n_blocks=2, lora_alpha=4, use_rslora=True, target_modules=TARGETS, **more
    ),
    "folded": lambda **more: BlockLoraConfig(
        r=4, n_blocks=2, lora_alpha=4, target_modules=TARGETS, parametrization="folded", **more
    ),
    "lora": lambda **more: LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS, **more),
}


@dataclass
class Job:
    """A small training job: model, and what ``train`` needs."""

    model: Any
    arguments: tuple[Any, ...]

    def run(self, **more: Any) -> torch.Tensor:
        return train(*self.arguments, iterations=STEPS, lr=LR, seed=SEED, **more).losses

    def adapter(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


def make_job(folder: Path, kind: str = "blocks", dropout: float = 0.25, augment: Any = "crop-flip") -> Job:
    clip = load_clip(str(folder))
    model = _with_adapter(clip.model, CONFIGS[kind](lora_dropout=dropout), SEED)
    colours = ["red", "green", "blue"]
    examples = [
        Example(f"{colour}{i}", label, Image.new("RGB", (40, 36), colour))
        for i in range(3)
        for label, colour in enumerate(colours)
    ]
    images = TrainingImages(examples, clip.processor, batch_size=4, augment=augment, seed=SEED)
    tokens, _ = tokenize([f"a photo of a {c}." for c in colours], clip.tokenizer, clip.context_length)
    groups = param_groups(model, lr=LR, weight_decay=DECAY)
    return Job(
        model,
        (
            make_towers(model.get_base_model()),
            groups,
            tokens,
            images,
            Compute(torch.device("cpu"), "fp32"),
        ),
    )


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["blocks", "lora"])
def test_the_loop_is_the_formula(clip_folder: Path, kind: str) -> None:
    job = make_job(clip_folder, kind, dropout=0.0)
    losses = job.run()
    reference = make_job(clip_folder, kind, dropout=0.0)
    towers, _, tokens, images, _ = reference.arguments
    model = towers.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=1e-6)
    for step in range(STEPS):
        values, labels = images.batch(step)
        image = model.get_image_features(pixel_values=values).pooler_output
        text = model.get_text_features(input_ids=tokens).pooler_output
        image, text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
        scores = model.logit_scale.exp() * image @ text.T
        loss = -(scores.log_softmax(dim=1)[torch.arange(len(labels)), labels]).mean()
        assert losses[step].item() == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for name, value in reference.adapter().items():
        torch.testing.assert_close(job.adapter()[name], value, rtol=1e-3, atol=1e-5)


def test_the_loss_falls_and_only_the_adapter_moves(clip_folder: Path) -> None:
    job = make_job(clip_folder, dropout=0.0, augment="none")
    frozen = {name: p.clone() for name, p in job.model.named_parameters() if not p.requires_grad}
    towers, groups, *rest = job.arguments
    result = train(towers, groups, *rest, iterations=40, lr=LR, seed=SEED)
    assert result.losses[-6:].mean() < 0.5 * result.losses[:3].mean()
    assert not towers.model.training
    assert all(torch.equal(p, frozen[name]) for name, p in job.model.named_parameters() if name in frozen)


def test_random_states_are_left_alone(clip_folder: Path) -> None:
    job = make_job(clip_folder)
    before = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    job.run()
    assert before == (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_interrupted_and_resumed_to_the_same_bits(clip_folder: Path, tmp_path: Path, kind: str) -> None:
    whole = make_job(clip_folder, kind)
    losses = whole.run()
    state = Checkpoint(tmp_path / "state.safetensors", "print")

    def press_ctrl_c(step: int, *_: float) -> None:
        if step == 1:  # the first step is always shown; later ones only now and then
            signal.raise_signal(signal.SIGINT)

    cut = make_job(clip_folder, kind)
    with pytest.raises(KeyboardInterrupt):
        cut.run(checkpoint=state, on_step=press_ctrl_c, save_seconds=1e9)
    assert state.path.exists()
    resumed = make_job(clip_folder, kind)
    assert torch.equal(resumed.run(checkpoint=state), losses)
    assert_same(resumed.adapter(), whole.adapter())
    finished = make_job(clip_folder, kind)  # nothing left to do: the state is only read
    assert torch.equal(finished.run(checkpoint=state), losses)
    assert_same(finished.adapter(), whole.adapter())


def test_a_run_keeps_the_plan_of_its_first_start(clip_folder: Path, tmp_path: Path) -> None:
    """With other micro-batches come other dropout masks, so whatever memory is free later: the same plan."""
    first, later = [Plan(micro_batch=2), Plan(micro_batch=1)], [Plan(chunk=2), Plan(micro_batch=3)]
    whole = make_job(clip_folder)
    losses = whole.run(plans=first)
    assert not torch.equal(make_job(clip_folder).run(plans=later), losses)
    state = Checkpoint(tmp_path / "state.safetensors", "print")

    class Killed(Exception):
        pass

    def kill(*_: float) -> None:
        raise Killed

    with pytest.raises(Killed):  # before the first checkpoint
        make_job(clip_folder).run(plans=first, checkpoint=state, on_step=kill)
    assert not state.path.exists()
    resumed = make_job(clip_folder)
    assert torch.equal(resumed.run(plans=later, checkpoint=state), losses)
    assert_same(resumed.adapter(), whole.adapter())
    state.path.unlink()
    other = Checkpoint(state.path, "another run")  # keeps its own
    assert not torch.equal(make_job(clip_folder).run(plans=later, checkpoint=other), losses)
    other.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_first_start(clip_folder: Path, tmp_path: Path) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "print")
    for content in ("", "[]", '{"facts": {}}', "{"):
        (tmp_path / "state.start.json").write_text(content, encoding="utf-8")
        with pytest.raises(RunError, match=r"state\.start\.json: this file is damaged .*; delete it"):
            state.first_start("plans", list)


def test_the_checkpoint_may_be_replaced_once_it_was_read(clip_folder: Path, tmp_path: Path) -> None:
    """Windows cannot replace a mapped file; elsewhere overwriting one in place changes what was read."""
    state = Checkpoint(tmp_path / "state.safetensors", "print")
    job = make_job(clip_folder)
    job.run(checkpoint=state)
    named = job.arguments[0].model.named_parameters()
    parameters = {name: p for name, p in named if p.requires_grad}
    optimizer = torch.optim.AdamW(job.arguments[1])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    losses = torch.zeros(STEPS, dtype=torch.float64)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state.restore(RunState(parameters, optimizer, schedule, losses, scaler))
    held = [value for values in optimizer.state.values() for value in values.values()]
    before = [value.clone() for value in held]
    with state.path.open("r+b") as file:
        file.write(b"\xff" * state.path.stat().st_size)
    assert held
    assert all(torch.equal(one, other) for one, other in zip(held, before, strict=True))
    maps = Path("/proc/self/maps")
    assert not (maps.exists() and str(state.path) in maps.read_text(encoding="utf-8", errors="replace"))


def test_a_second_ctrl_c_stops_at_once(clip_folder: Path, tmp_path: Path) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "print")

    def press_twice(*_: float) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make_job(clip_folder).run(checkpoint=state, on_step=press_twice)
    assert not state.path.exists()


def test_a_killed_process_goes_on(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "print")
    whole = make_job(clip_folder)
    losses = whole.run()
    killed = make_job(clip_folder)
    real, saves = Checkpoint.save, []

    def save_three_times(self: Checkpoint, *arguments: Any) -> None:
        real(self, *arguments)
        saves.append(1)
        if len(saves) == 3:
            raise SystemExit("killed")  # nothing of the loop's own runs after this but context managers

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_three_times)
        with pytest.raises(SystemExit):
            killed.run(checkpoint=state, save_seconds=0)
    resumed = make_job(clip_folder)
    assert torch.equal(resumed.run(checkpoint=state), losses)
    assert_same(resumed.adapter(), whole.adapter())


def test_a_full_disk_keeps_the_last_checkpoint(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "print")
    real, written = checkpoint.write_bytes, []

    def fill_up(path: Path, content: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(content)
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", fill_up)
    with pytest.raises(OSError, match="No space left"):
        make_job(clip_folder).run(checkpoint=state, save_seconds=0)
    assert state.path.read_bytes() == written[0]


def test_checkpoints_that_cannot_be_resumed(clip_folder: Path, tmp_path: Path) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "one")
    make_job(clip_folder).run(checkpoint=state)
    with pytest.raises(RunError, match="made with other settings or other images"):
        make_job(clip_folder).run(checkpoint=Checkpoint(state.path, "another"))
    state.path.write_bytes(state.path.read_bytes()[:500])
    with pytest.raises(RunError, match="this checkpoint is damaged"):
        make_job(clip_folder).run(checkpoint=state)
    state.remove()
    state.remove()
    assert not state.path.exists()


def test_a_loss_that_is_no_number(clip_folder: Path) -> None:
    job = make_job(clip_folder)
    with torch.no_grad():
        job.arguments[0].model.logit_scale.fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"the loss became nan at step 1: lower the learning rate"):
        job.run()


def test_history_is_thinned(clip_folder: Path) -> None:
    job = make_job(clip_folder, dropout=0.0)
    result = train(*job.arguments, iterations=STEPS, lr=LR, seed=SEED)
    rows = result.history(points=3)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[1]["loss"] == pytest.approx(result.losses[2:4].mean().item())
    assert rows[0]["lr"] == LR
    assert len(result.history()) == STEPS


def test_no_checkpoint_holds_a_loss_that_is_no_number(clip_folder: Path, tmp_path: Path) -> None:
    state = Checkpoint(tmp_path / "state.safetensors", "print")
    job = make_job(clip_folder)
    real = job.arguments[3].batch

    def spoil(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        values, labels = real(step)
        return (values * float("nan") if step >= 1 else values), labels

    job.arguments[3].batch = spoil
    with pytest.raises(ConfigError, match="the loss became nan"):
        job.run(checkpoint=state, save_seconds=0)
    _, tensors = state._read()
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
