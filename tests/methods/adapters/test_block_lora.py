"""Block-LoRA: its settings reach the adapter."""

from __future__ import annotations

import torch
from small_task import classes_of, fit

from blocklora.methods import Job


def test_arm_dropout_reaches_the_adapter(job: Job) -> None:
    one, each = (fit(job, "block-lora", iterations=3, lr=1e-2, arm_dropout=value) for value in (False, True))
    assert each.classifier.adapter.peft_config["default"].arm_dropout is True
    assert each.trainable_parameters == one.trainable_parameters
    assert not torch.equal(classes_of(each), classes_of(one))


def test_the_settings_are_those_of_the_adapter(job: Job) -> None:
    given = {"r": 4, "n_blocks": 2, "alpha": 3.0, "dropout": 0.1}
    fitted = fit(job, "block-lora", iterations=1, **given)
    config = fitted.classifier.adapter.peft_config["default"]
    assert (config.r, config.n_blocks, config.lora_alpha, config.lora_dropout) == (4, 2, 3.0, 0.1)
    assert config.use_rslora
