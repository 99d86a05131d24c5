"""What the pretraining ships: the task's split rule, the tiny model's consistency; and its checkpoints' round trip."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from blocklora.clip import load_clip
from blocklora.data import load_dataset, open_image

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "pretrain_tiny"
TASK = ROOT / "src" / "blocklora" / "assets" / "twemoji"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pretrain_tiny_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def manifest() -> list[dict[str, str]]:
    with (TASK / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_no_group_of_siblings_stands_on_two_sides() -> None:
    sides = defaultdict(set)
    for row in manifest():
        sides[row["group"]].add(row["split"])
    assert [group for group, found in sides.items() if len(found) > 1] == []


def test_every_class_has_16_to_train_and_4_to_validate() -> None:
    rows = manifest()
    counts = Counter((row["label"], row["split"]) for row in rows)
    for label in {row["label"] for row in rows}:
        assert counts[label, "train"] >= 16
        assert counts[label, "val"] >= 4
        assert counts[label, "test"] >= 1
    assert sum(row["split"] == "test" for row in rows) >= 200


def test_the_task_loads_small_and_without_the_same_image_twice() -> None:
    task = load_dataset("twemoji")
    examples = [*task.train, *task.val, *task.test]
    assert len(examples) == len(manifest())
    images = {open_image(e.source).tobytes() for e in examples}
    assert len(images) == len(examples)
    assert sum(f.stat().st_size for f in TASK.rglob("*") if f.is_file()) <= 4_000_000


def test_the_tiny_model_agrees_with_its_tokenizer() -> None:
    clip = load_clip("tiny")
    config = clip.model.config.text_config
    ids = clip.tokenizer("a photo of a cat.")["input_ids"]
    assert (ids[0], ids[-1]) == (config.bos_token_id, config.eos_token_id)
    assert len(clip.tokenizer) == config.vocab_size
    assert clip.tokenizer.model_max_length == config.max_position_embeddings
    assert max(ids) == config.eos_token_id  # old and new ways of finding the last token agree


def test_results_belong_to_the_shipped_weights() -> None:
    path = TOOLS / "results.json"
    if not path.exists():
        pytest.skip("no results yet")
    weights = ROOT / "src" / "blocklora" / "assets" / "tiny" / "model.safetensors"
    recorded = json.loads(path.read_text(encoding="utf-8"))["model_sha256"]
    assert recorded == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = load_tool("checkpoint")

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Linear(3, 2)
        return module, torch.optim.AdamW(module.parameters(), lr=0.1)

    def step(module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    one, one_optimiser = make()
    step(one, one_optimiser)
    checkpoint.Run(tmp_path, {"m": one}, [one_optimiser]).save({"step": 1})
    two, two_optimiser = make()
    assert checkpoint.Run(tmp_path, {"m": two}, [two_optimiser]).resume() == {"step": 1}
    step(one, one_optimiser)
    step(two, two_optimiser)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_no_creator_of_clipart_stands_on_two_sides() -> None:
    with (TASK.with_name("clipart") / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sides = defaultdict(set)
    for row in rows:
        for what in (row["group"], row["source"].rpartition(" by ")[2]):
            sides[what].add(row["split"])
    assert [what for what, found in sides.items() if len(found) > 1] == []
    counts = Counter((row["label"], row["split"]) for row in rows)
    for label in {row["label"] for row in rows}:
        assert (counts[label, "train"] >= 16, counts[label, "val"] >= 4, counts[label, "test"] >= 5) == (
            True,
        ) * 3
    task = load_dataset("clipart")
    images = {open_image(e.source).tobytes() for e in (*task.train, *task.val, *task.test)}
    assert len(images) == len(rows) >= 500
    assert len({row["source"].rpartition(" by ")[2] for row in rows if row["split"] == "test"}) >= 100
    size = sum(f.stat().st_size for f in TASK.with_name("clipart").rglob("*") if f.is_file())
    assert size <= 2_000_000
