"""Any method of the PEFT library, from its configuration file: DoRA, IA3, LoHa, OFT, ... in CLIP's layers.

The file is PEFT's ``adapter_config.json``: at least ``peft_type``, and that type's own settings. It says what the
adapter is; how it is trained is CLIP-LoRA's recipe, as for ``clip-lora``. ``target_modules`` in the file are names in a
``CLIPModel``; without them the adapter stands where ``towers``, ``targets`` and ``layers`` say.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

import blocklora.adapter  # noqa: F401  (makes Block-LoRA known to PEFT)
from blocklora.classifier.text_side import TextSide
from blocklora.clip import Clip
from blocklora.core.device import Compute
from blocklora.core.errors import ConfigError
from blocklora.methods.adapters.common import fit_adapter, target_pattern
from blocklora.methods.adapters.options import Options
from blocklora.methods.task import Fitted, Task
from blocklora.training import Checkpoint, OnStep

__all__ = ["Settings", "fit", "read_config"]

_IN_THE_FILE = ("r", "n_blocks", "alpha", "dropout", "parametrization", "arm_dropout")


@dataclass(frozen=True)
class Settings(Options):
    """The settings of the adapters, of which those that say what an adapter is stand in the file.

    Attributes:
        peft_config: The file, or its text; it is the text that is kept.
    """

    peft_config: str | None = None

    def __post_init__(self) -> None:
        """Check every value, and read the file."""
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(Options)}
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


def fit(
    task: Task,
    clip: Clip,
    options: Settings,
    seed: int,
    compute: Compute,
    *,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> Fitted:
    """Fit the adapter; see ``Method``."""
    config = read_config(str(options.peft_config), "--peft-config")
    if hasattr(config, "target_modules") and not config.target_modules:
        config.target_modules = target_pattern(options, clip)
    fitted = fit_adapter(config, task, clip, options, seed, compute, checkpoint=checkpoint, on_step=on_step)
    kind = json.loads(str(options.peft_config))["peft_type"]
    how = f"the adapter ({kind}) by its file, its training by the published recipe of CLIP-LoRA, or what was given"
    selection = fitted.selection | {"settings": f"fixed beforehand: {how}"}
    return replace(fitted, selection=selection, text=TextSide())


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
