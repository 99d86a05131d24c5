"""What Block-LoRA and LoRA have in common: an adapter in CLIP's layers, trained by the loop."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from peft import PeftConfig, get_peft_model

from blocklora.adapter import param_groups
from blocklora.clip import Clip, class_features, make_towers
from blocklora.core.device import Compute
from blocklora.methods.adapters.options import TARGETS, Options, chosen_layers
from blocklora.methods.task import Fitted, Task, fixed_beforehand
from blocklora.training import Checkpoint, OnStep, TrainingPictures, plan_memory, train

__all__ = ["fit_adapter", "target_pattern"]


def target_pattern(options: Options, clip: Clip) -> str:
    """Return the regular expression that names the adapted layers of a model, in both towers' own words."""
    parts = []
    for tower in clip.depths if options.towers == "both" else [options.towers]:
        text = tower == "text"
        blocks = re.escape(clip.family.text_blocks if text else "encoder.layers")
        names = TARGETS | dict(clip.family.text_layers) if text else TARGETS
        numbers = "|".join(map(str, chosen_layers(options.layers, clip.depths[tower])))
        leaves = "|".join(re.escape(names[target]) for target in options.targets)
        parts.append(rf"{tower}_model\.{blocks}\.({numbers})\.({leaves})")
    return "|".join(parts)


def fit_adapter(
    config: PeftConfig,
    task: Task,
    clip: Clip,
    options: Options,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
) -> Fitted:
    """Put an adapter into both towers, train it, and compute the class features it leads to."""
    model = _with_adapter(clip.model, config, seed)
    base = model.get_base_model()
    towers = make_towers(
        base,
        engine=options.engine,
        dtype=compute.dtype,
        prefix_sharing=options.prefix_sharing == "on",
    )
    augment = options.augment or ("crop-flip" if task.flip else "crop")
    pictures = TrainingPictures(
        task.train, clip.processor, batch_size=options.batch_size, augment=augment, seed=seed
    )
    memory = plan_memory(towers, task.tokens, pictures, compute.device, options.memory_limit)
    steps = options.steps(task.shots)
    training = train(
        towers,
        param_groups(model, lr=options.lr, weight_decay=options.weight_decay),
        task.tokens,
        pictures,
        compute,
        iterations=steps,
        lr=options.lr,
        seed=seed,
        plans=memory.plans,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return Fitted(
        model=model,
        class_features=class_features(base, task.tokens),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        training=training,
        selection=fixed_beforehand(steps, "CLIP-LoRA"),
        engine={"engine": towers.engine, "why_not_lean": towers.why} | memory.outcome(training.plan),
        notes=training.notes,
    )


def _with_adapter(model: Any, config: PeftConfig, seed: int) -> Any:
    """Return a PEFT model whose adapter starts from ``seed``; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):  # PEFT fills adapters on the CPU and moves them then
        torch.default_generator.manual_seed(seed)
        with warnings.catch_warnings():
            # transformers renamed gradient checkpointing; PEFT still asks for it by the old name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            return get_peft_model(model, config)
