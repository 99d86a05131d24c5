"""A very small random CLIP with adapters, and a batch for it."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import torch
from transformers import CLIPConfig, CLIPModel


class RandomClip:
    """A very small random CLIP with an adapter in it, prompts and images: what the engine's tests run on.

    Args:
        configs: PEFT configurations; each becomes an adapter, and all of them are active.
        act: The MLPs' activation.
        dtype: Of all weights.
        layers: Blocks of either tower.
        eos: ``eos_token_id`` of the text configuration; 2 is OpenAI's wrong one.
        more: Further settings of either tower.
    """

    def __init__(
        self,
        *configs: Any,
        act: str = "quick_gelu",
        dtype: torch.dtype = torch.float64,
        layers: int = 3,
        eos: int = 99,
        **more: Any,
    ) -> None:
        common = {"num_hidden_layers": layers, "hidden_act": act} | more
        text = common | {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
        text |= {"vocab_size": 100, "max_position_embeddings": 16, "bos_token_id": 98, "eos_token_id": eos}
        vision = common | {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 3}
        vision |= {"image_size": 16, "patch_size": 4}
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
            torch.manual_seed(1)
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
            model.eval().requires_grad_(False)
            for parameter in model.parameters():  # no bias is zero, no LayerNorm is the identity
                parameter.add_(0.05 * torch.randn_like(parameter))
            model.logit_scale.fill_(2.0)
            self.peft = peft.get_peft_model(model, configs[0]) if configs else None
            for place, config in enumerate(configs[1:], 1):
                self.peft.add_adapter(f"adapter{place}", config)
            if len(configs) > 1:
                self.peft.base_model.set_adapter(
                    ["default", *(f"adapter{i}" for i in range(1, len(configs)))]
                )
        self.model = model.to(dtype)
        draw = torch.Generator().manual_seed(2)
        self.pixels = torch.randn(5, 3, 16, 16, generator=draw, dtype=torch.float64).to(dtype)
        self.labels = torch.tensor([0, 3, 1, 1, 2])
        self.tokens = self.prompts([3, 5, 3, 1, 9, 3], draw)  # 16 tokens, the most, in one of them

    @staticmethod
    def prompts(lengths: list[int], draw: torch.Generator | None = None) -> torch.Tensor:
        """Token ids of prompts with a common opening of four tokens, then so many of their own."""
        tokens = torch.full((len(lengths), max(lengths) + 7), 99)
        for row, length in zip(tokens, lengths, strict=True):
            row[:4] = torch.tensor([98, 5, 6, 7])
            row[4 : 4 + length] = torch.randint(8, 90, (length,), generator=draw)
            row[4 + length : 6 + length] = torch.tensor([9, 10])
        return tokens

    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def gradients(self) -> dict[str, torch.Tensor | None]:
        """Return the gradients that have gathered, and begin anew."""
        found = {name: value.grad for name, value in self.trained().items()}
        for value in self.trained().values():
            value.grad = None
        return found

    def reference(self) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
        """Logits and gradients of the mean cross-entropy by transformers' and PEFT's own forward."""
        image = self.model.get_image_features(pixel_values=self.pixels).pooler_output
        text = self.model.get_text_features(input_ids=self.tokens).pooler_output
        image, text = image / image.norm(dim=1, keepdim=True), text / text.norm(dim=1, keepdim=True)
        logits = self.model.logit_scale.exp() * image @ text.T
        torch.nn.functional.cross_entropy(logits, self.labels % logits.shape[1]).backward()
        return logits.detach(), self.gradients()
