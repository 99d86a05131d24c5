"""What Block-LoRA and LoRA have in common: an adapter in CLIP's layers, trained by the loop."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

from blocklora.adapter import param_groups
from blocklora.classifier import TextChange, shared_class_features
from blocklora.clip import Clip, make_towers, shared_view
from blocklora.methods.adapters.cached import fixed_views, views_choice
from blocklora.methods.adapters.settings import TARGETS, AdapterSettings, chosen_layers
from blocklora.methods.frozen.features import training_images
from blocklora.methods.method import EngineUse, FitResult, Job, last_step
from blocklora.training import FixedViews, MemoryPlan, OnExpected, plan_memory, train

__all__ = ["fit_adapter", "target_pattern"]


def target_pattern(settings: AdapterSettings, clip: Clip) -> str:
    """Return the regular expression that names the adapted layers of a model, in both towers' own words."""
    parts = []
    for tower in clip.depths if settings.towers == "both" else [settings.towers]:
        text = tower == "text"
        blocks = re.escape(clip.family.text_blocks if text else "encoder.layers")
        names = TARGETS | dict(clip.family.text_layers) if text else TARGETS
        indices = "|".join(map(str, chosen_layers(settings.layers, clip.depths[tower])))
        leaves = "|".join(re.escape(names[target]) for target in settings.targets)
        parts.append(rf"{tower}_model\.{blocks}\.({indices})\.({leaves})")
    return "|".join(parts)


def fit_adapter(
    job: Job, settings: AdapterSettings, config: PeftConfig, *, view: Any = None, recipe: str = "CLIP-LoRA"
) -> FitResult:
    """Put an adapter into both towers of a view of the model, train it, and compute the class features it leads to.

    Args:
        job: What is to be learned.
        settings: How to train.
        config: The adapter.
        view: Where the adapter is put; None is a view that shares all weights with the model.
        recipe: Whose settings these are.
    """
    adapter = _with_adapter(view or shared_view(job.clip.model), config, job.seed, job.start)
    base = adapter.get_base_model()
    towers = make_towers(
        base,
        engine=settings.engine,
        dtype=job.compute.dtype,
        prefix_sharing=settings.prefix_sharing == "on",
    )
    images = training_images(job, settings.batch_size, settings.augment)
    steps = job.task.steps(settings.iterations, settings.STEPS_A_SHOT)
    views = None if settings.cached_views is None else fixed_views(job, settings, towers, images, steps)
    shown, tokens, ranks = views or images, job.task.tokens, job.compute.ranks
    memory = plan_memory(towers, tokens, shown, job.device, settings.memory_limit, job.resources, ranks)
    training = train(
        towers,
        param_groups(adapter, lr=settings.lr, weight_decay=settings.weight_decay),
        tokens,
        shown,
        job.compute,
        iterations=steps,
        lr=settings.lr,
        seed=job.seed,
        plans=memory.plans,
        checkpoint=job.checkpoint,
        on_step=job.on_step,
        resources=job.resources,
        in_time=replace(job, on_expected=_tell(job, memory, steps, views)).steps_in_time,
    )
    trainable = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    adapter.eval().requires_grad_(False)
    classifier = job.classifier(
        shared_class_features(base, tokens, ranks, engine=settings.engine),
        adapter=adapter,
        text=TextChange(),
    )
    return FitResult(
        classifier,
        trainable,
        last_step(len(training.losses), recipe) | views_choice(settings, views),
        training,
        EngineUse(
            towers.engine,
            towers.why,
            memory.outcome(training.plan),
            training.plan.micro_batch or settings.batch_size,
        ),
        notes=training.notes,
    )


def _tell(job: Job, memory: MemoryPlan, steps: int, views: FixedViews | None) -> OnExpected | None:
    """Tell how long training will take, by its FLOPs and the speed of the frozen image tower.

    Returns:
        What is still to be told: where FLOPs are not counted, the first step is timed.
    """
    if job.on_expected is None or job.deadline or memory.need is None:
        return job.on_expected
    if not (job.checkpoint and job.checkpoint.path.exists()):
        flops = steps * memory.need.flops
        if views:
            flops += views.number * len(views.images) * memory.frozen_image_flops
        job.on_expected(job.forward_seconds * flops / memory.frozen_image_flops)
    return None


def _with_adapter(
    model: Any, config: PeftConfig, seed: int, start: Mapping[str, torch.Tensor] | None = None
) -> Any:
    """Return a PEFT model whose adapter starts from a seed, or from another adapter; torch's random state stays."""
    with torch.random.fork_rng(devices=[]):  # PEFT fills adapters on the CPU and moves them then
        torch.default_generator.manual_seed(seed)
        with warnings.catch_warnings():
            # transformers renamed gradient checkpointing; PEFT still asks for it by the old name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            adapter = get_peft_model(model, config)
    if start:
        set_peft_model_state_dict(adapter, dict(start))
    return adapter
