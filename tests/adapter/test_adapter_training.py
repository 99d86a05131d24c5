"""Whole training runs: Trainer with resume, two processes, the example."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

ROOT = Path(__file__).parents[2]


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "peft_any_model.py"), run_name="__main__")
    out = capsys.readouterr().out
    for name in ("block-lora", "lora"):
        assert f"{name} reloaded: largest difference 0.0e+00" in out


class OwnLoss(Trainer):
    """A Trainer for models whose output the case knows how to read."""

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> torch.Tensor:
        out = model(**inputs)
        out = out if isinstance(out, torch.Tensor) else out[0]
        return out.float().square().mean()


def fit(case: Any, folder: Path, resume: str | None = None) -> dict[str, torch.Tensor]:
    """Eight steps of transformers' Trainer with dropout, with a checkpoint every four."""
    model = case.adapted(lora_dropout=0.3, arm_dropout=True, init_weights=True).train()
    batch = case.batch()
    data = [{name: values[row % 4] for name, values in batch.items()} for row in range(16)]
    options: dict[str, Any] = {"max_steps": 8, "save_steps": 4, "learning_rate": 0.01, "logging_steps": 100}
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        **options,
    )
    OwnLoss(model=model, args=arguments, train_dataset=data).train(resume_from_checkpoint=resume)
    return {name: p.detach().clone() for name, p in model.named_parameters() if "blocklora" in name}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trainer_resumes_to_the_same_weights(any_case: Any, tmp_path: Path) -> None:
    whole = fit(any_case, tmp_path / "a")
    resumed = fit(any_case, tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-4"))
    assert any("B" in name and p.abs().max() > 0 for name, p in whole.items())
    for name, parameter in whole.items():
        assert torch.allclose(parameter, resumed[name], atol=1e-6), name


# Two processes train on halves of the batch. The first one then repeats it alone: the gradients of each half, with
# the masks that its process drew, averaged.
DDP = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[2])
from conftest import Case
from blocklora.adapter import param_groups

def loss(case, model, rank, step):
    torch.manual_seed(10 * step + rank)
    out = model(**{name: values[rank::2] for name, values in case.batch().items()})
    return (out if isinstance(out, torch.Tensor) else out[0]).square().mean()

def factors(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

def train(case, options, backward):
    model = case.adapted(init_weights=True, **options).train()
    backward = backward(model)
    optimizer = torch.optim.AdamW(param_groups(model, 0.01))
    for step in range(3):
        optimizer.zero_grad()
        backward(step)
        optimizer.step()
    return factors(model)

dist.init_process_group("gloo")
rank = dist.get_rank()
for name in ("mlp", "clip", "gpt2"):
    for options in ({}, {"lora_dropout": 0.3}, {"lora_dropout": 0.3, "arm_dropout": True}):
        case = Case(name)

        def together(model):
            wrapped = DistributedDataParallel(model)
            return lambda step: loss(case, wrapped, rank, step).backward()

        def alone(model):
            return lambda step: [(loss(case, model, half, step) / 2).backward() for half in (0, 1)]

        ours = train(case, options, together)
        both = [torch.empty_like(ours) for _ in range(2)]
        dist.all_gather(both, ours)
        assert torch.equal(both[0], both[1]), (name, options)
        if rank == 0:
            want = train(case, options, alone)
            assert torch.allclose(ours, want, atol=1e-5), (name, options, (ours - want).abs().max())
dist.barrier()
if rank == 0:
    open(sys.argv[1], "w").write("same")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path: Path) -> None:
    """By torchrun, without dropout, with one mask, and with a mask for each arm.

    Waiting threads sleep and do not spin, and there is one a process: on a machine with few free cores two
    processes that spin for each other would starve themselves. All models share one start, the slow part.
    """
    (tmp_path / "run.py").write_text(DDP)
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "run.py"), str(tmp_path / "done"), str(Path(__file__).parent)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "done").read_text() == "same"
