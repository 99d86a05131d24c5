"""CLIP-LoRA's released training code, and its Block-LoRA variant, reproduced through the public adapter.

The files in ``parity/`` hold trajectories made in float64 with an independent implementation on OpenAI's CLIP; here
the same weights run in transformers' CLIPModel under PEFT, trained by plain torch.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from blocklora.adapter import BlockLoraConfig, param_groups
from blocklora.clip.towers import LeanTowers
from blocklora.core.device import Compute
from blocklora.training import Plan
from blocklora.training import train as train_by_the_loop

PARITY = Path(__file__).parent / "parity"
TARGETS = ["q_proj", "k_proj", "v_proj"]
RENAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
TOP = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}


def read(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(PARITY / f"{name}.safetensors", "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}


def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names to those of transformers, in float64."""
    state: dict[str, Tensor] = {}
    for full, value in tensors.items():
        if not full.startswith("base."):
            continue
        name, value = full.removeprefix("base."), value.double()
        if name in TOP:
            state[TOP[name]] = value
        elif name == "logit_scale":
            state[name] = value[0]
        elif name in ("text_projection", "visual.proj"):
            key = "text_projection" if name == "text_projection" else "visual_projection"
            state[f"{key}.weight"] = value.T.contiguous()
        else:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            layer, rest = name.removeprefix("visual.").removeprefix("transformer.resblocks.").split(".", 1)
            prefix = f"{tower}.encoder.layers.{layer}."
            if "in_proj" in rest:
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    state[f"{prefix}self_attn.{letter}_proj.{rest.rpartition('_')[2]}"] = part
            else:
                module, _, kind = rest.rpartition(".")
                state[f"{prefix}{RENAMES[module]}.{kind}"] = value
    return state


def build(meta: dict[str, str], tensors: dict[str, Tensor]) -> CLIPModel:
    width, heads, layers = int(meta["text_width"]), int(meta["text_heads"]), int(meta["text_layers"])
    eot = int(meta["eot"].split()[0])
    text = {
        "vocab_size": int(meta["vocab"]),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": int(meta["context"]),
        "hidden_act": "quick_gelu",
        "bos_token_id": eot - 1,
        "eos_token_id": eot,
        "pad_token_id": 0,
    }
    width = int(meta["vision_width"])
    vision = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": int(meta["vision_layers"]),
        "num_attention_heads": int(meta["vision_heads"]),
        "image_size": int(meta["image"]),
        "patch_size": int(meta["patch"]),
        "hidden_act": "quick_gelu",
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)).double()
    missing, unexpected = model.load_state_dict(convert(tensors), strict=False)
    assert not unexpected
    assert not [name for name in missing if "position_ids" not in name]
    return model


def layer_name(index: int, letter: str, text_layers: int) -> str:
    tower, layer = ("text_model", index) if index < text_layers else ("vision_model", index - text_layers)
    return f"base_model.model.{tower}.encoder.layers.{layer}.self_attn.{letter}_proj"


def logits(model: nn.Module, tokens: Tensor, images: Tensor) -> Tensor:
    clip = model.base_model.model
    text = clip.get_text_features(input_ids=tokens).pooler_output
    image = clip.get_image_features(pixel_values=images).pooler_output
    return 100 * nn.functional.normalize(image) @ nn.functional.normalize(text).T


def train(model: nn.Module, meta: dict[str, str], data: dict[str, Tensor]) -> dict[str, Any]:
    """CLIP-LoRA's loop: cross-entropy of 100 x cosine, AdamW on the adapter, cosine schedule each step."""
    steps = int(meta["steps"])
    betas = tuple(float(b) for b in meta["betas"].split(","))
    groups = param_groups(model, lr=float(meta["lr"]), weight_decay=float(meta["weight_decay"]))
    optimizer = torch.optim.AdamW(groups, betas=betas)
    floor = float(meta["eta_min"]) / float(meta["lr"])  # a factor, so that it fits every group's rate
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    images = data["images"].double()
    out: dict[str, Any] = {"losses": []}
    for step in range(steps):
        scores = logits(model, data["tokens"], images[step])
        loss = nn.functional.cross_entropy(scores, data["targets"][step])
        out.setdefault("logits_step0", scores.detach())
        out["losses"].append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        out["logits_final"] = logits(model, data["tokens"], images[0])
    return out


class Images:
    """The file's batches, as the loop takes them."""

    fixed = False

    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data
        self.batch_size = data["images"].shape[1]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.data["images"][step].double(), self.data["targets"][step]

    def part(self, step: int) -> tuple[int, int]:
        return 0, self.batch_size

    def indices(self, step: int) -> list[int]:
        return list(range(self.batch_size))


def train_lean(model: nn.Module, meta: dict[str, str], data: dict[str, Tensor], plan: Plan) -> dict[str, Any]:
    """The same through blocklora's own loop and lean towers."""
    towers = LeanTowers(model.get_base_model())
    towers.model.logit_scale.fill_(math.log(100))
    with torch.no_grad():
        out: dict[str, Any] = {"logits_step0": lean_logits(towers, data)}
    lr = float(meta["lr"])
    groups = param_groups(model, lr=lr, weight_decay=float(meta["weight_decay"]))
    result = train_by_the_loop(
        towers, groups, data["tokens"], Images(data), Compute(torch.device("cpu"), "fp32"),
        iterations=int(meta["steps"]), lr=lr, seed=0, plans=[plan],
    )  # fmt: skip
    with torch.no_grad():
        return out | {"losses": result.losses.tolist(), "logits_final": lean_logits(towers, data)}


def lean_logits(towers: LeanTowers, data: dict[str, Tensor]) -> Tensor:
    ((rows, one_pass),) = towers.passes(data["tokens"])
    return 100 * towers.images(data["images"][0].double()) @ towers.texts(one_pass)[rows.argsort()].T


def check(
    model: nn.Module,
    meta: dict[str, str],
    data: dict[str, Tensor],
    suffixes: dict[str, str],
    train: Any = train,
) -> None:
    """Start from the file's A, train, and compare everything the file holds to 1e-9."""
    state = dict(model.named_parameters())
    text_layers = int(meta["text_layers"])
    names = {
        key: f"{layer_name(int(index), letter, text_layers)}.{suffixes[factor]}"
        for key in data
        if key.startswith("final.")
        for index, letter, factor in [key.split(".")[1:]]
    }
    with torch.no_grad():
        for key, name in names.items():
            if key.endswith(".A"):
                state[name].copy_(data[key.replace("final", "init")])
    out = train(model, meta, data)
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(torch.tensor(out["losses"]).double(), data["losses"], **close)
    torch.testing.assert_close(out["logits_step0"], data["logits_step0"], **close)
    torch.testing.assert_close(out["logits_final"], data["logits_final"], **close)
    for key, name in names.items():
        torch.testing.assert_close(state[name].detach(), data[key], **close)


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_lora_reproduces_clip_lora() -> None:
    meta, data = read("lora_both")
    config = peft.LoraConfig(
        r=int(meta["r"]), lora_alpha=int(meta["alpha"]), use_rslora=True, target_modules=TARGETS
    )
    model = peft.get_peft_model(build(meta, data), config)
    check(model, meta, data, {"A": "lora_A.default.weight", "B": "lora_B.default.weight"})


def block_config(meta: dict[str, str], **more: Any) -> BlockLoraConfig:
    return BlockLoraConfig(
        r=int(meta["r"]),
        n_blocks=int(meta["n_blocks"]),
        lora_alpha=int(meta["alpha"]),
        use_rslora=True,
        target_modules=TARGETS,
        **more,
    )


def test_block_lora_reproduces_its_trajectory() -> None:
    meta, data = read("block_both")
    model = peft.get_peft_model(build(meta, data), block_config(meta))
    check(model, meta, data, {"A": "blocklora_A.default", "B": "blocklora_B.default"})


def test_the_folded_twin_reproduces_the_same_trajectory() -> None:
    meta, data = read("block_both")
    model = peft.get_peft_model(build(meta, data), block_config(meta, parametrization="folded"))
    summed = {k: v.sum(0, keepdim=True) if k[:5] + k[-2:] == "final.B" else v for k, v in data.items()}
    check(model, meta, summed, {"A": "blocklora_A.default", "B": "blocklora_B.default"})


@pytest.mark.parametrize(
    "plan", [Plan(), Plan("inputs", "no-mlp", micro_batch=2, chunk=2)], ids=["whole", "cut"]
)
@pytest.mark.parametrize("kind", ["lora_both", "block_both"])
def test_the_lean_engine_reproduces_them_all(kind: str, plan: Plan) -> None:
    meta, data = read(kind)
    settings: dict[str, Any] = {"r": int(meta["r"]), "lora_alpha": int(meta["alpha"]), "use_rslora": True}
    if kind == "lora_both":
        config: Any = peft.LoraConfig(target_modules=TARGETS, **settings)
        suffixes = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
    else:
        config = BlockLoraConfig(target_modules=TARGETS, n_blocks=int(meta["n_blocks"]), **settings)
        suffixes = {"A": "blocklora_A.default", "B": "blocklora_B.default"}
    check(
        peft.get_peft_model(build(meta, data), config), meta, data, suffixes, partial(train_lean, plan=plan)
    )
