"""Whole runs on a CUDA device: what only such a device has."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from blocklora.adapter import BlockLoraConfig, param_groups
from blocklora.clip import load_clip, make_towers, tokenize
from blocklora.core.device import Compute
from blocklora.data.bundled import read_bundled
from blocklora.methods.adapters.common import _with_adapter
from blocklora.run.fit import fit_run
from blocklora.training import Checkpoint, TrainingImages, train
from blocklora.training.memory.limits import plan_memory
from blocklora.training.step import Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"),
]
CUDA = torch.device("cuda")
"""Runs repeat to the last bit only in a process that was started with this."""
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
FIT = "from pathlib import Path; from blocklora.run.fit import fit_run; import sys, json; "
MEASURE = (
    FIT + "_, m = fit_run('digits', Path(sys.argv[1]), model='tiny', shots=4, iterations=20, device='cuda', "
    "precision=sys.argv[2], deterministic=sys.argv[3] == 'yes'); print(json.dumps(m.evaluation.nll))"
)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start a process that fits digits and prints the log loss of its test images."""
    command = [sys.executable, "-c", MEASURE, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | REPEATABLE)


def log_loss(process: subprocess.Popen[str]) -> float:
    """Wait for a process, and return what it printed."""
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return float(json.loads(out.splitlines()[-1]))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_deterministic_runs_repeat(tmp_path: Path, precision: str) -> None:
    first = log_loss(start(str(tmp_path / "a"), precision, "yes"))
    assert log_loss(start(str(tmp_path / "b"), precision, "yes")) == first


def test_two_processes_share_a_device(tmp_path: Path) -> None:
    both = [start(str(tmp_path / name), "fp32", "yes") for name in "ab"]
    one, other = (log_loss(process) for process in both)
    assert one == other


def job(folder: str, precision: str, batch_size: int = 16) -> tuple[Any, ...]:
    """What ``train`` needs on a CUDA device."""
    clip = load_clip(folder)
    model = _with_adapter(
        clip.model,
        BlockLoraConfig(r=4, n_blocks=4, lora_alpha=4, target_modules=r".*self_attn\.(q|k|v)_proj"),
        0,
    ).to(CUDA)
    digits = read_bundled("digits")
    images = TrainingImages(
        list(digits.train)[:64], clip.processor, batch_size=batch_size, augment="crop", seed=0
    )
    sentences = [f"a photo of the number {name}." for name in digits.class_names]
    tokens, _ = tokenize(sentences, clip.tokenizer, clip.context_length)
    compute = Compute(CUDA, precision)
    towers = make_towers(model.get_base_model(), dtype=compute.dtype)
    return (
        towers,
        param_groups(model, lr=1e-3, weight_decay=0.01),
        tokens,
        images,
        compute,
    )


def test_a_scaled_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """fp16: the scale of the loss is part of the state."""
    whole = train(*job("tiny", "fp16"), iterations=8, lr=1e-3, seed=0).losses
    state = Checkpoint(tmp_path / "state.safetensors", "print")

    def press_ctrl_c(step: int, *_: float) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(*job("tiny", "fp16"), iterations=8, lr=1e-3, seed=0, checkpoint=state, on_step=press_ctrl_c)
    resumed = train(*job("tiny", "fp16"), iterations=8, lr=1e-3, seed=0, checkpoint=state).losses
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-3)


def large_clip(clip_folder: Path, folder: Path) -> str:
    """Write a random CLIP whose activations outweigh everything else: 8 layers of width 512 see 197 tokens."""
    shutil.copytree(clip_folder, folder, dirs_exist_ok=True)
    vision = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    vision |= {"num_attention_heads": 8, "image_size": 224, "patch_size": 16}
    config = CLIPConfig.from_pretrained(folder)
    config.vision_config.update(vision)
    CLIPModel(config).save_pretrained(folder)
    processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return str(folder)


def test_the_planner_knows_the_peak(clip_folder: Path, tmp_path: Path) -> None:
    towers, groups, tokens, images, compute = job(
        large_clip(clip_folder, tmp_path / "clip"), "fp32", batch_size=32
    )
    planned = plan_memory(towers, tokens, images, CUDA, None)
    torch.cuda.reset_peak_memory_stats()
    train(towers, groups, tokens, images, compute, iterations=3, lr=1e-3, seed=0, plans=planned.plans)
    assert torch.cuda.max_memory_allocated() == pytest.approx(planned.predicted, rel=0.15)


def test_when_memory_runs_out_the_next_plan_is_taken(clip_folder: Path, tmp_path: Path) -> None:
    arguments = job(large_clip(clip_folder, tmp_path / "clip"), "fp32", batch_size=32)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 700 * 2**20) / total)
    try:
        plans = (Plan(), Plan("inputs", "inputs", micro_batch=4))
        done = train(*arguments, iterations=2, lr=1e-3, seed=0, plans=plans)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.plan == plans[1]


def test_a_run_says_what_it_used(tmp_path: Path) -> None:
    _, metrics = fit_run("digits", tmp_path / "run", model="tiny", shots=2, iterations=5)
    assert metrics.device == "cuda"
    assert metrics.precision in ("bf16", "fp16")
    assert metrics.peak_memory_bytes
    assert metrics.peak_memory_bytes < 2**31
