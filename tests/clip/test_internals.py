"""The insides of transformers and PEFT that are read, all by name, so that a new version that lacks one says so.

The towers in ``clip/lean/`` and ``clip/prompted.py`` call the parts of transformers' models one by one.
"""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import CLIPModel, CLIPVisionModelWithProjection
from transformers.masking_utils import create_causal_mask
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPTextEmbeddings, CLIPVisionEmbeddings

LAYER = {
    "layer_norm1": nn.LayerNorm,
    "layer_norm2": nn.LayerNorm,
    **{f"self_attn.{name}_proj": nn.Linear for name in ("q", "k", "v", "out")},
    "mlp.fc1": nn.Linear,
    "mlp.fc2": nn.Linear,
}
VISION = {
    "embeddings": CLIPVisionEmbeddings,
    "pre_layrnorm": nn.LayerNorm,
    "encoder.layers": nn.ModuleList,
    "post_layernorm": nn.LayerNorm,
}
TEXT = {
    "embeddings": CLIPTextEmbeddings,
    "embeddings.token_embedding": nn.Embedding,
    "embeddings.position_embedding": nn.Embedding,
    "encoder.layers": nn.ModuleList,
    "final_layer_norm": nn.LayerNorm,
}
TOWER_CONFIG = ("hidden_act", "attention_dropout", "num_attention_heads", "hidden_size", "intermediate_size")
CONFIG = {
    "vision_config": (*TOWER_CONFIG, "image_size", "patch_size"),
    "text_config": (*TOWER_CONFIG, "eos_token_id", "pad_token_id", "max_position_embeddings", "vocab_size"),
}
CALLS = {
    CLIPEncoderLayer.forward: ("hidden_states", "attention_mask"),
    CLIPTextEmbeddings.forward: ("inputs_embeds",),
    CLIPVisionEmbeddings.forward: ("pixel_values",),
    create_causal_mask: ("config", "inputs_embeds", "attention_mask", "past_key_values"),
    CLIPModel.get_image_features: ("pixel_values",),
    CLIPModel.get_text_features: ("input_ids", "attention_mask"),
    CLIPVisionModelWithProjection.forward: ("pixel_values",),
}
LORA = (
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_bias",
    "lora_variant",
    "scaling",
    "active_adapters",
    "merged",
)


def lacking(thing: Any, names: Any) -> list[str]:
    """The dotted names that a thing does not have."""
    found = []
    for name in names:
        try:
            attrgetter(name)(thing)
        except AttributeError:
            found.append(name)
    return found


def test_the_parts_of_a_model(random_clip: Any) -> None:
    model = random_clip().model
    vision, text = model.vision_model, model.text_model
    parts = [(vision, VISION), (text, TEXT)]
    parts += [(layer, LAYER) for tower in (vision, text) for layer in tower.encoder.layers]
    parts += [
        (model, {"visual_projection": nn.Linear, "text_projection": nn.Linear, "logit_scale": nn.Parameter})
    ]
    for part, named in parts:
        missing = lacking(part, named)
        assert not missing, f"transformers' {type(part).__name__} no longer has {missing}"
        other = [name for name, kind in named.items() if not isinstance(attrgetter(name)(part), kind)]
        assert not other, f"{other} of transformers' {type(part).__name__} are of other kinds than {named}"
    for name, wanted in CONFIG.items():
        missing = lacking(getattr(model.config, name), wanted)
        assert not missing, f"transformers' {name} of CLIP no longer has {missing}"


@pytest.mark.parametrize("function", list(CALLS), ids=lambda function: function.__qualname__)
def test_the_arguments_of_what_is_called(function: Any) -> None:
    missing = set(CALLS[function]) - set(inspect.signature(function).parameters)
    assert not missing, f"transformers' {function.__qualname__} no longer takes {sorted(missing)}"


def test_a_layer_can_be_told_to_be_causal(random_clip: Any) -> None:
    """``prompted_text_features`` passes ``is_causal`` along to the attention."""
    case = random_clip()
    text = case.model.text_model
    with torch.no_grad():
        hidden = text.embeddings(input_ids=case.tokens)
        mask = create_causal_mask(
            config=text.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
        )
        changed = hidden.clone()
        changed[:, -1] += 1
        one, other = (text.encoder.layers[0](x, mask, is_causal=True) for x in (hidden, changed))
    assert isinstance(one, torch.Tensor), "transformers' CLIP layer no longer returns a tensor"
    assert torch.equal(one[:, :-1], other[:, :-1]), "transformers' CLIP layer no longer attends causally"


def test_the_parts_of_pefts_layers(random_clip: Any) -> None:
    layer = (
        random_clip(LoraConfig(target_modules=["q_proj"])).model.text_model.encoder.layers[0].self_attn.q_proj
    )
    assert isinstance(layer, LoraLinear)
    assert isinstance(layer, BaseTunerLayer)
    missing = lacking(layer, (*LORA, "disable_adapters", "base_layer", "get_base_layer"))
    assert not missing, f"PEFT's LoRA layer no longer has {missing}"
    assert issubclass(AuxiliaryTrainingWrapper, nn.Module)
