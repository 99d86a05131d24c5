"""Block-LoRA: LoRA whose factors are cut into blocks that share one down-projection (arXiv 2501.16720)."""

from __future__ import annotations

from dataclasses import dataclass

from blocklora.adapter import BlockLoraConfig
from blocklora.methods.adapters.common import fit_adapter, target_pattern
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.method import FitResult, Job, Method
from blocklora.methods.settings import need

__all__ = ["METHOD", "BlockLoraSettings", "fit"]


@dataclass(frozen=True)
class BlockLoraSettings(AdapterSettings):
    """How to adapt CLIP; ``n_blocks`` must divide ``r``."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        need(self.r % self.n_blocks == 0, "n_blocks", self.n_blocks, f"a divisor of r = {self.r}")


def fit(job: Job, settings: BlockLoraSettings) -> FitResult:
    """Fit Block-LoRA."""
    config = BlockLoraConfig(
        r=settings.r,
        n_blocks=settings.n_blocks,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=True,
        parametrization=settings.parametrization,
        arm_dropout=settings.arm_dropout,
        target_modules=target_pattern(settings, job.clip),
    )
    return fit_adapter(job, settings, config)


METHOD = Method(fit, BlockLoraSettings, open=True, prompts="averaged", shares=True)
