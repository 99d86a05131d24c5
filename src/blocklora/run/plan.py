"""``blocklora plan``: what a training step will need, answered from a configuration, before any weights are loaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transformers import CLIPConfig

from blocklora.adapter.theory import trained_numbers
from blocklora.clip import read_clip_config
from blocklora.core.device import resolve_device, resolve_precision
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS, make_settings
from blocklora.methods.adapters.settings import AdapterSettings, chosen_layers
from blocklora.training.memory.limits import free_memory, parse_bytes, words
from blocklora.training.memory.planner import Need, Workload, choose_plans
from blocklora.training.memory.rivals import clip_lora_need, peft_need
from blocklora.training.memory.shapes import Adapted, model_shape

__all__ = ["KNOWN", "plan_step"]

# OpenAI's models: id on the hub; width, blocks, patch of the image tower, side of a picture; width of the text tower.
KNOWN: dict[str, tuple[str, tuple[int, int, int, int], int]] = {
    "ViT-B/32": ("openai/clip-vit-base-patch32", (768, 12, 32, 224), 512),
    "ViT-B/16": ("openai/clip-vit-base-patch16", (768, 12, 16, 224), 512),
    "ViT-L/14": ("openai/clip-vit-large-patch14", (1024, 24, 14, 224), 768),
    "ViT-L/14@336": ("openai/clip-vit-large-patch14-336", (1024, 24, 14, 336), 768),
}
_GROUPS = (("q", "k", "v"), ("out",), ("fc1",), ("fc2",))
# Tokens of "a photo of a NAME." for ImageNet's 1,000 names under OpenAI's tokenizer, both special tokens included.
_LENGTHS = {8: 246, 9: 508, 10: 155, 11: 49, 12: 24, 13: 9, 14: 7, 15: 1, 18: 1}
_OPENING = 5  # start of text, and "a photo of a"


def plan_step(
    model: str,
    classes: int,
    *,
    method: str = "block-lora",
    batch_size: int = 32,
    memory: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> dict[str, Any]:
    """Plan a training step.

    Args:
        model: ``ViT-B/16`` and its kin, a Hugging Face id, a local folder, or ``tiny``. Only a configuration is read.
        classes: Number of classes; their prompts are taken to be as long as those of ImageNet's.
        method: ``block-lora`` or ``clip-lora``.
        batch_size: Pictures a step.
        memory: The most memory to use, such as "24GB"; None is what is free on this machine's device.
        device: Where training would run.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        **settings: The method's settings.

    Returns:
        JSON-ready values: the plan, its memory, its FLOPs, and what CLIP-LoRA's code and plain PEFT would need.

    Raises:
        ConfigError: A value cannot work, or nothing fits into the memory.
        ModelError: The configuration cannot be read.
    """
    if classes < 1 or batch_size < 1:
        raise ConfigError(f"classes {classes}, batch_size {batch_size}: expected at least 1 of both.")
    config = _config(model)
    if method not in ("block-lora", "clip-lora"):
        raise ConfigError(f"method '{method}': expected block-lora or clip-lora, whose steps can be planned.")
    options = make_settings(method, METHODS[method].settings, settings)
    where = resolve_device(device)
    wanted = (
        precision if precision == "fp16" else resolve_precision(precision, where)
    )  # a GPU elsewhere may be meant
    number = 4 if wanted == "fp32" else 2
    limit = parse_bytes(memory) if memory else free_memory(where)
    work = _workload(config, options, method, classes, batch_size, number)
    weights = 4 * work.model.parameters
    chosen = choose_plans(work, limit - weights)
    need = chosen[0].need
    context = config.text_config.max_position_embeddings
    return {
        "model": model,
        "classes": classes,
        "batch_size": batch_size,
        "bytes_a_number": number,
        "trained_numbers": work.model.trained,
        "limit_bytes": limit,
        "plan": words(chosen[0].plan),
        "weights_bytes": weights,
        **_figures(need, weights),
        "smaller_plans": [{"plan": words(one.plan), **_figures(one.need, weights)} for one in chosen[1:]],
        "clip_lora": _figures(clip_lora_need(work, context), weights),
        "peft_lora": _figures(peft_need(work), weights),
    }


def _figures(need: Need, weights: int) -> dict[str, Any]:
    """What a way to train needs, as JSON-ready values."""
    return {"peak_bytes": weights + need.step, **asdict(need)}


def _workload(
    config: Any, options: AdapterSettings, method: str, classes: int, batch_size: int, number: int
) -> Workload:
    """The step that a fit with these options would take."""
    rank = options.r if method == "clip-lora" else options.r // options.n_blocks
    copies = options.n_blocks if method == "block-lora" and options.arm_dropout else 1
    ranks = [rank * copies * sum(target in options.targets for target in group) for group in _GROUPS]
    depths = {"vision": config.vision_config, "text": config.text_config}
    adapted: dict[str, Adapted] = {}
    shapes: list[tuple[int, int]] = []
    for name, tower in depths.items():
        blocks = (
            chosen_layers(options.layers, tower.num_hidden_layers) if options.towers in ("both", name) else []
        )
        adapted[name] = blocks, (ranks[0], ranks[1], ranks[2], ranks[3])
        d, m = tower.hidden_size, tower.intermediate_size
        widths = {"fc1": (m, d), "fc2": (d, m)}
        shapes += [widths.get(target, (d, d)) for target in options.targets] * len(blocks)
    kind = {
        "clip-lora": "lora",
        "block-lora": "folded" if options.parametrization == "folded" else "block-lora",
    }
    trained = trained_numbers(
        kind[method], shapes, options.r, 1 if method == "clip-lora" else options.n_blocks
    )
    return Workload(
        model=model_shape(config, adapted, trained),
        pictures=batch_size,
        lengths=_prompt_lengths(classes),
        opening=_OPENING if options.prefix_sharing == "on" and classes > 1 else 0,
        number=number,
    )


def _prompt_lengths(classes: int) -> tuple[int, ...]:
    """Lengths of so many prompts, in the proportions of ImageNet's."""
    every = [length for length, count in _LENGTHS.items() for _ in range(count)]
    return tuple(every[int((place + 0.5) * len(every) / classes)] for place in range(classes))


def _config(model: str) -> Any:
    """The configuration of a model that is known by name, or is on disk or on the hub."""
    names = {name.removeprefix("ViT-"): name for name in KNOWN} | {
        hub: name for name, (hub, *_) in KNOWN.items()
    }
    name = names.get(model, model)
    if name not in KNOWN:
        return read_clip_config(model)
    _, (width, blocks, patch, side), text = KNOWN[name]
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": blocks}
    vision |= {"num_attention_heads": width // 64, "patch_size": patch, "image_size": side}
    words_ = {"hidden_size": text, "intermediate_size": 4 * text, "num_hidden_layers": 12}
    return CLIPConfig(
        vision_config=vision,
        text_config=words_ | {"num_attention_heads": text // 64},
        projection_dim=text,
    )
