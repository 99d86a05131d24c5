"""What all tests of the adapter share: tiny random models, and one way to build adapters on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from blocklora.adapter import BlockLoraConfig

Maker = tuple[Callable[[], nn.Module], list[str], Callable[[], dict[str, Tensor]]]


def pytest_configure(config: pytest.Config) -> None:
    # PEFT 0.21 reads a name that transformers 5 has deprecated, on every get_peft_model.
    config.addinivalue_line(
        "filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    )


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin0 = nn.Linear(10, 20)
        self.lin1 = nn.Linear(20, 12, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lin1(self.lin0(x).relu()).relu())


def _clip() -> nn.Module:
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 48, "eos_token_id": 49}
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))


def _tokens() -> Tensor:
    return torch.randint(0, 40, (4, 6), generator=torch.Generator().manual_seed(5))


def _image(size: int) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(6))


def _clip_batch() -> dict[str, Tensor]:
    tokens = _tokens()
    tokens[:, -1] = 49
    return {"input_ids": tokens, "pixel_values": _image(8)}


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def _bert() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))


def _vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes))


def _llama() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=16, **sizes))


MAKERS: dict[str, Maker] = {
    "mlp": (
        MLP,
        ["lin0", "lin1"],
        lambda: {"x": torch.randn(4, 10, generator=torch.Generator().manual_seed(1))},
    ),
    "clip": (_clip, ["q_proj", "k_proj", "v_proj"], _clip_batch),
    "gpt2": (_gpt2, ["c_attn", "c_proj"], lambda: {"input_ids": _tokens()}),
    "bert": (_bert, ["query", "value"], lambda: {"input_ids": _tokens()}),
    "vit": (_vit, ["q_proj", "v_proj", "query", "value"], lambda: {"pixel_values": _image(8)}),
    "llama": (_llama, ["q_proj", "v_proj", "down_proj"], lambda: {"input_ids": _tokens()}),
}


class Case:
    """A tiny random model, always with the same weights, and a batch for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.make, self.targets, self.batch = MAKERS[name]

    def base(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().eval()

    def config(self, **options: Any) -> BlockLoraConfig:
        settings = {
            "r": 4,
            "n_blocks": 2,
            "lora_alpha": 6,
            "target_modules": self.targets,
            "init_weights": False,
        }
        return BlockLoraConfig(**(settings | options))

    def adapted(self, seed: int = 1, **options: Any) -> Any:
        base = self.base()
        torch.manual_seed(seed)
        return peft.get_peft_model(base, self.config(**options)).eval()

    def run(self, model: nn.Module, **more: Any) -> Tensor:
        """The model's main output for the batch."""
        out = model(**self.batch(), **more)
        if isinstance(out, Tensor):
            return out
        return out.logits_per_image if "logits_per_image" in out else out.logits


@pytest.fixture(params=["mlp", "clip", "gpt2"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(params=list(MAKERS))
def any_case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture
def mlp() -> Case:
    return Case("mlp")


@pytest.fixture
def make_case() -> Callable[[str], Case]:
    return Case
