"""The peak that a plan is priced at against the bytes that its step really holds."""

from __future__ import annotations

import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPConfig, CLIPModel

from blocklora.clip.text_plan import text_plan
from blocklora.clip.towers import LeanTowers
from blocklora.training.memory.costs import image_rows, text_rows, tower_cost
from blocklora.training.memory.planner import price
from blocklora.training.memory.shapes import workload
from blocklora.training.step import ClassFeatures, Plan, gradient

IMAGES, NAMES = 8, 150
PLANS = [
    Plan(),
    Plan("no-mlp", "no-mlp"),
    Plan("inputs", "inputs"),
    Plan(chunk=40, micro_batch=2),
    Plan("no-mlp", "inputs", 4, 20),
    Plan("all", "inputs", None, 8),
]


class Held(TorchDispatchMode):
    """Count the bytes of all storages that are made inside and still live, and the most there were."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {value.untyped_storage()._cdata: 0 for value in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.see(value.untyped_storage())
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self.sizes:
            self.sizes[place] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, place)

    def gone(self, place: int) -> None:
        self.now -= self.sizes.pop(place, 0)


def job(
    targets: list[str], times: int = 4, activation: str = "quick_gelu"
) -> tuple[LeanTowers, Tensor, Tensor]:
    """A CLIP that is small, and still large enough for what is counted to outweigh the rest."""
    tower = {"hidden_size": 64, "intermediate_size": 64 * times, "num_hidden_layers": 4}
    tower |= {"num_attention_heads": 2, "hidden_act": activation}
    text = tower | {"vocab_size": 500, "bos_token_id": 498, "eos_token_id": 499}
    vision = tower | {"image_size": 56, "patch_size": 8}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    model = get_peft_model(clip, LoraConfig(r=2, lora_dropout=0.25, target_modules=targets)).get_base_model()
    draw = torch.Generator().manual_seed(0)
    tokens = torch.full((NAMES, 14), 499)
    tokens[:, :5] = torch.tensor([498, 1, 2, 3, 4])
    for row, place in zip(tokens, range(NAMES), strict=True):
        row[5 : 7 + place % 5] = torch.randint(10, 490, (2 + place % 5,), generator=draw)
    return LeanTowers(model.train()), tokens, torch.randn(IMAGES, 3, 56, 56, generator=draw)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "targets",
    [["q_proj", "k_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], ["fc2"]],
    ids="-".join,
)
def test_a_step_holds_no_more_than_its_price(targets: list[str]) -> None:
    towers, tokens, pixels = job(targets)
    work = workload(
        towers, tokens, SimpleNamespace(batch_size=IMAGES, fixed=False), torch.device("cuda"), cores=2
    )  # where tensors count, and not a process
    beside = 4 * 4 * work.model.trained + 4 * pixels.numel()  # moments of AdamW, the batch
    for plan in PLANS:
        text = ClassFeatures(towers, tokens, trained=True, plan=plan)
        with Held(towers.model) as held:
            gradient(
                towers, pixels, torch.arange(IMAGES), text, towers.model.logit_scale.detach().exp(), plan,
                lambda loss: loss.backward(), seed=0, step=0,
            )  # fmt: skip
        towers.model.zero_grad()
        priced = price(work, plan).step - beside
        assert 0.7 * priced < held.peak < 1.05 * priced, (plan, held.peak / priced)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj"], ["fc1"]], ids="-".join)
def test_a_tower_holds_no_more_than_its_cost(targets: list[str], activation: str, times: int) -> None:
    """With narrow MLPs the gradients of q, k and v come to most, with wide ones the MLP's inside."""
    towers, tokens, pixels = job(targets, times, activation)
    shape = workload(
        towers, tokens, SimpleNamespace(batch_size=IMAGES, fixed=False), torch.device("cuda"), cores=2
    ).model
    plan = text_plan(tokens, 499, share=True)
    runs: list[tuple[Any, Any, Any]] = [
        (shape.text, text_rows(plan.opening, plan.groups), partial(towers._texts.texts, plan)),
        (shape.vision, image_rows(IMAGES, shape.tokens), partial(towers.images, pixels)),
    ]
    for tower, rows, run in runs:
        for keep in ("all", "no-mlp", "inputs"):
            with Held(towers.model) as held:
                run(keep=keep).sum().backward()
            towers.model.zero_grad()
            cost = tower_cost(tower, rows, keep, 4).peak
            assert 0.7 * cost < held.peak < 1.02 * cost, (tower, keep, held.peak / cost)
