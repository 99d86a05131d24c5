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
    assert "reloaded: largest difference 0.0e+00" in out
    assert "plain LoRA: largest difference 0.0e+00" in out


def fit(case: Any, folder: Path, resume: str | None = None) -> dict[str, torch.Tensor]:
    """Eight steps of transformers' Trainer with dropout, with a checkpoint every four."""
    model = case.adapted(lora_dropout=0.3, arm_dropout=True, init_weights=True).train()
    tokens = torch.randint(0, 40, (16, 6), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in tokens]
    options: dict[str, Any] = {"max_steps": 8, "save_steps": 4, "learning_rate": 0.01, "logging_steps": 100}
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True, **options
    )
    Trainer(model=model, args=arguments, train_dataset=data).train(resume_from_checkpoint=resume)
    return {name: p.detach().clone() for name, p in model.named_parameters() if "blocklora" in name}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trainer_resumes_to_the_same_weights(make_case: Any, tmp_path: Path) -> None:
    case = make_case("bert")
    whole = fit(case, tmp_path / "a")
    resumed = fit(case, tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-4"))
    assert any("B" in name and p.abs().max() > 0 for name, p in whole.items())
    for name, parameter in whole.items():
        assert torch.allclose(parameter, resumed[name], atol=1e-6), name


DDP = """
import sys, torch
import torch.distributed as dist
from peft import get_peft_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from blocklora.adapter import BlockLoraConfig, param_groups

def build():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    config = BlockLoraConfig(r=4, n_blocks=2, target_modules=["0", "2"], lora_dropout=float(sys.argv[2]))
    return get_peft_model(base, config).train()

def step(model, wrapped, x):
    optimizer = torch.optim.AdamW(param_groups(model, 0.01))
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

dist.init_process_group("gloo")
rank = dist.get_rank()
x = torch.randn(8, 6, generator=torch.Generator().manual_seed(4))
model = build()
step(model, DistributedDataParallel(model), x[rank::2])
factors = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
both = [torch.empty_like(factors) for _ in range(2)]
dist.all_gather(both, factors)
assert torch.equal(both[0], both[1])
if rank == 0 and sys.argv[2] == "0":
    alone = build()
    step(alone, alone, x)
    want = torch.cat([p.detach().flatten() for p in alone.parameters() if p.requires_grad])
    assert torch.allclose(factors, want, atol=1e-6)
if rank == 0:
    open(sys.argv[1], "w").write("same")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("dropout", ["0", "0.3"])
def test_two_processes_train_one_adapter(tmp_path: Path, dropout: str) -> None:
    (tmp_path / "run.py").write_text(DDP)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "run.py"), str(tmp_path / "done"), dropout]
    subprocess.run(command, check=True, env=env, cwd=tmp_path, capture_output=True, timeout=300)
    assert (tmp_path / "done").read_text() == "same"
