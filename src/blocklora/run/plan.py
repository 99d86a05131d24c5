"""``blocklora plan``: what a training step will need, answered from a configuration, before any weights are loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import CLIPConfig

from blocklora.adapter.theory import trained_numbers
from blocklora.clip import read_clip_config
from blocklora.core.device import resolve_device, resolve_precision
from blocklora.core.errors import ConfigError
from blocklora.core.ranks import Ranks
from blocklora.core.resources import Resources, available_resources
from blocklora.core.threads import results_held
from blocklora.methods import METHODS, check_shares, make_settings
from blocklora.methods.adapters.settings import AdapterSettings, chosen_layers
from blocklora.methods.method import MOST_SHOTS
from blocklora.run.step_plan import CutPlan, Peak, StepPlan
from blocklora.training.memory.limits import (
    free_memory,
    image_budget,
    parse_bytes,
    plan_within,
    used_memory,
)
from blocklora.training.memory.planner import Need, Workload, exchanged_bytes
from blocklora.training.memory.rivals import clip_lora_need, peft_need
from blocklora.training.memory.shapes import Adapted, first_share, model_shape
from blocklora.training.memory.views import VIEWS_MEMORY, planned_views

__all__ = ["KNOWN", "plan_step"]

# OpenAI's models: id on the hub; width, blocks, patch of the image tower, side of an image; width of the text tower.
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
_IMAGE_BYTES = 3 * 500 * 375


def plan_step(
    model: str,
    classes: int,
    *,
    method: str = "block-lora",
    batch_size: int = 32,
    memory: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    shots: int = 16,
    resources: Resources | None = None,
    processes: int = 1,
    **settings: Any,
) -> StepPlan:
    """Plan a training step, or what one of several processes does of it.

    Args:
        model: ``ViT-B/16`` and its kin, a Hugging Face id, a local folder, or ``tiny``. Only a configuration is read.
        classes: Number of classes; their prompts are taken to be as long as those of ImageNet's.
        method: ``block-lora`` or ``clip-lora``.
        batch_size: Images a step.
        memory: The most memory to use, such as "24GB", as ``fit`` means it: of tensors on a CUDA GPU, elsewhere of the
            whole process. None is what is free on this machine's device, or this process's share of a CPU's. Of several
            processes the limit is that of each.
        device: Where training would run. With ``memory`` given, this machine need not have it.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        shots: Training images of a class, for the memory of decoded images; each is taken to have 500 x 375 pixels.
        resources: Cores and host memory; None is all that this process may use.
        processes: How many share the step, started by torchrun; where memory is not given all are on this machine.
        **settings: The method's settings.

    Raises:
        ConfigError: A value cannot work, or nothing fits into the memory.
        ModelError: The configuration cannot be read.
    """
    if classes < 1 or batch_size < 1 or processes < 1:
        raise ConfigError(
            f"classes {classes}, batch_size {batch_size}, processes {processes}: expected at least 1 of each."
        )
    config = _config(model)
    if method not in ("block-lora", "clip-lora"):
        raise ConfigError(f"method '{method}': expected block-lora or clip-lora, whose steps can be planned.")
    options = make_settings(method, METHODS[method].settings, settings)
    check_shares(method, options, None, Ranks(0, processes))
    resources = resources or available_resources(1 / processes)
    where = _device(device, memory)
    number = 4 if _precision(precision, where) == "fp32" else 2
    work = _workload(config, options, method, classes, batch_size, number)
    work = replace(work, on_cpu=where.type != "cuda", read_ahead=results_held(resources.cores))
    limit = parse_bytes(memory) if memory else free_memory(where, resources)
    steps = options.iterations or options.STEPS_A_SHOT * min(shots, MOST_SHOTS)
    views = planned_views(work.model, options.cached_views, shots * classes, batch_size, steps)
    return _planned(
        model, work, where, limit, shots, config.text_config.max_position_embeddings, views, processes
    )


def _planned(
    model: str,
    work: Workload,
    device: torch.device,
    limit: int,
    shots: int,
    context: int,
    views: tuple[int, int],
    processes: int,
) -> StepPlan:
    """Price a workload within so many bytes; ``context`` is how many tokens the text tower can read."""
    whole, work = work, _of_first(work, processes)
    classes = len(whole.lengths)
    weights = 4 * work.model.parameters
    used = weights + (used_memory(device) if work.on_cpu else 0)
    images = min(shots * classes * _IMAGE_BYTES, image_budget(limit - used)) if work.on_cpu else 0
    if views[0]:  # images are cut once, and not kept
        fits = views[1] <= VIEWS_MEMORY * (limit - used)
        work, images = replace(work, views_bytes=views[1] if fits else 0), 0
    forecast = plan_within(work, limit, used, images)
    before = forecast.before

    def peak(need: Need) -> Peak:
        return Peak(before + need.step, need)

    return StepPlan(
        model=model,
        device=device.type,
        classes=classes,
        batch_size=whole.images,
        bytes_a_number=work.number,
        trained_numbers=work.model.trained,
        limit_bytes=limit,
        weights_bytes=weights,
        before_bytes=before,
        plans=tuple(CutPlan(before + one.need.step, one.need, str(one.plan)) for one in forecast.plans),
        clip_lora=peak(clip_lora_need(whole, context)),
        peft_lora=peak(peft_need(whole)),
        views=views[0],
        views_bytes=views[1],
        processes=processes,
        own_images=work.images,
        own_classes=len(work.lengths),
        exchanged_bytes=exchanged_bytes(work, whole.images),
    )


def _of_first(work: Workload, processes: int) -> Workload:
    """Return what the first of several processes does of a step; the others do about as much."""
    if processes == 1:
        return work
    return replace(
        work,
        images=-(-work.images // processes),
        lengths=tuple(first_share(work.lengths, work.opening, processes)),
        ranks=processes,
        classes=len(work.lengths),
    )


def _device(name: str, memory: str | None) -> torch.device:
    """Return the device; where the memory is given, a GPU of another machine may be meant."""
    try:
        return resolve_device(name)
    except ConfigError:
        if memory and name in ("cuda", "mps"):
            return torch.device(name)
        raise


def _precision(name: str, device: torch.device) -> str:
    """Return the precision; a GPU of another machine is taken to compute bf16 natively."""
    if name == "fp16":
        return name
    if device.type == "cuda" and not torch.cuda.is_available():
        return resolve_precision("bf16" if name == "auto" else name, device)
    return resolve_precision(name, device)


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
        images=batch_size,
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
