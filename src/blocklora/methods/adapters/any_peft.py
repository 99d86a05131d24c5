"""Any method of the PEFT library, from its configuration file: DoRA, IA3, LoHa, OFT, ... in CLIP's layers.

The file is PEFT's ``adapter_config.json``: at least ``peft_type``, and that type's own settings. It says what the
adapter is; how it is trained is CLIP-LoRA's recipe, as for ``clip-lora``. ``target_modules`` in the file are names in a
``CLIPModel``; without them the adapter stands where ``towers``, ``targets`` and ``layers`` say.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from blocklora.adapter import base_weight_changes, changes_base
from blocklora.core.errors import ConfigError
from blocklora.methods.adapters.common import fit_adapter, target_pattern
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.method import FitResult, Job, Method

__all__ = ["METHOD", "AnyPeftSettings", "fit", "read_config"]

_IN_THE_FILE = ("r", "n_blocks", "alpha", "dropout", "parametrization", "arm_dropout")


@dataclass(frozen=True)
class AnyPeftSettings(AdapterSettings):
    """The settings of the adapters, of which those that say what an adapter is stand in the file.

    Attributes:
        peft_config: The file, or its text; it is the text that is kept.
    """

    peft_config: str | None = None

    def __post_init__(self) -> None:
        """Check every value, and read the file."""
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(AdapterSettings)}
        for name in _IN_THE_FILE:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(
                    f"{name} '{getattr(self, name)}': of method peft this stands in --peft-config."
                )
        if self.peft_config is None:
            raise ConfigError(
                "method peft needs --peft-config: a JSON file such as PEFT's adapter_config.json."
            )
        is_text = self.peft_config.lstrip().startswith("{")
        name = "--peft-config" if is_text else self.peft_config
        text = self.peft_config if is_text else _read(Path(self.peft_config))
        read_config(text, name)
        object.__setattr__(self, "peft_config", text)  # a file may change before the run is resumed


def fit(job: Job, settings: AnyPeftSettings) -> FitResult:
    """Fit the adapter."""
    config = read_config(str(settings.peft_config), "--peft-config")
    if hasattr(config, "target_modules") and not config.target_modules:
        config.target_modules = target_pattern(settings, job.clip)
    view = copy.deepcopy(job.clip.model) if changes_base(config) else None
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    return fit_adapter(
        job, settings, config, view=view, recipe=f"CLIP-LoRA, with the adapter {kind} of its file"
    )


def read_config(text: str, name: str) -> PeftConfig:
    """Read a PEFT configuration.

    Args:
        text: JSON.
        name: What messages call it.

    Raises:
        ConfigError: It is no JSON object, PEFT does not know its type or a setting, or the type cannot stand in CLIP's
            layers.
    """
    try:
        record = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name}: this PEFT configuration is no JSON ({error}).") from error
    kind = record.get("peft_type") if isinstance(record, dict) else None
    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ConfigError(
            f"{name}: its peft_type is '{kind}'; expected one that PEFT knows, such as LORA, IA3, LOHA or OFT."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PEFT would leave out a setting that it does not know
            given = record | {"task_type": None, "inference_mode": False}
            config: PeftConfig = PeftConfig.from_peft_type(**given)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ConfigError(
            f"{name}: PEFT refuses this configuration: {' '.join(str(error).split())}"
        ) from error
    if reason := base_weight_changes(config):
        raise ConfigError(f"{name}: {reason}")
    if config.is_prompt_learning or getattr(config, "modules_to_save", None):
        raise ConfigError(
            f"{name}: expected an adapter of layers: no prompt learning (take coop or maple) and no modules_to_save."
        )
    return config


def _read(path: Path) -> str:
    """Return what stands in a file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: this PEFT configuration cannot be read ({error}).") from error


METHOD = Method(fit, AnyPeftSettings, open=True, prompts="averaged", shares=True)
