"""The settings of a fit, checked once. Defaults are CLIP-LoRA's published recipe (MaxZanella/CLIP-LoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from blocklora.clip import Engine
from blocklora.core.errors import ConfigError
from blocklora.methods.settings import need, need_positive, need_whole
from blocklora.training.images import Augment
from blocklora.training.memory.limits import parse_bytes

__all__ = ["TARGETS", "AdapterSettings", "Parametrization", "TowerChoice", "chosen_layers"]

TowerChoice = Literal["both", "vision", "text"]
Parametrization = Literal["blocks", "folded"]
TARGETS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}


@dataclass(frozen=True)
class AdapterSettings:
    """How to adapt CLIP.

    Attributes:
        iterations: Steps in all; None is 500 for every shot (of the largest class, 16 at most).
        batch_size: Images a step.
        lr: Learning rate of AdamW; falls to 1e-6 along half a cosine.
        weight_decay: Of AdamW.
        r: The total rank of an adapter.
        n_blocks: How many blocks Block-LoRA cuts the rank into; must divide ``r``.
        alpha: The adapter's scale is ``alpha / sqrt(r)``.
        dropout: Probability in [0, 1) of dropping a value of the adapter's input.
        parametrization: ``blocks`` (the paper's), or ``folded``: the same function with fewer parameters.
        arm_dropout: Whether every block of Block-LoRA has a dropout mask of its own; an extension of the paper.
        towers: Which towers get an adapter.
        targets: Which layers of a block get one: any of q, k, v, out, fc1, fc2.
        layers: Which blocks of a tower: ``all``, ``top-N`` (nearest to the output) or ``bottom-N``.
        augment: ``crop-flip``, ``crop``, ``none``; None is ``crop-flip``, or ``crop`` where the data set says
            that a mirror image is of another class.
        engine: ``lean`` (the fast towers), ``plain`` (transformers' own forward), or ``auto``: lean where possible.
        prefix_sharing: Whether the opening that all prompts share is computed once, ``on`` or ``off``. With
            dropout, ``on`` means that its masks are shared as well.
        memory_limit: The most memory that training may use, such as ``24GB``; None is what is free.
        cached_views: So many augmented views of every image are all that training sees, in turn, and what lies below
            the first adapted block of the image tower runs once over each; 0 is as many as make sense and fit into
            memory. None: crops are new in every step.
    """

    STEPS_A_SHOT: ClassVar[int] = 500
    BUNDLED_MODEL: ClassVar[Mapping[str, Any]] = MappingProxyType({"lr": 4e-3})  # it learns nothing at 2e-4

    iterations: int | None = None
    batch_size: int = 32
    lr: float = 2e-4
    weight_decay: float = 1e-2
    r: int = 2
    n_blocks: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    parametrization: Parametrization = "blocks"
    arm_dropout: bool = False
    towers: TowerChoice = "both"
    targets: tuple[str, ...] = ("q", "k", "v")
    layers: str = "all"
    augment: Augment | None = None
    engine: Engine = "auto"
    prefix_sharing: Literal["on", "off"] = "on"
    memory_limit: str | None = None
    cached_views: int | None = None

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: A value cannot work; the message names it.
        """
        need_whole(self, "iterations", "batch_size", "r", "n_blocks")
        need_positive(self, "lr", "alpha")
        need_positive(self, "weight_decay", zero=True)
        need(0 <= self.dropout < 1, "dropout", self.dropout, "a probability from 0 up to, but not, 1")
        _choice("parametrization", self.parametrization, get_args(Parametrization))
        _choice("towers", self.towers, get_args(TowerChoice))
        folded = self.parametrization == "folded"
        need(not (self.arm_dropout and folded), "arm_dropout", True, "false where parametrization is folded")
        _choice("engine", self.engine, get_args(Engine))
        _choice("prefix_sharing", self.prefix_sharing, ("on", "off"))
        if self.memory_limit is not None:
            parse_bytes(self.memory_limit)
        if self.augment is not None:
            _choice("augment", self.augment, get_args(Augment))
        need(
            self.cached_views is None or self.cached_views >= 0,
            "cached_views",
            self.cached_views,
            "0 or more",
        )
        need(bool(self.targets), "targets", "", f"some of {', '.join(TARGETS)}")
        for target in self.targets:
            _choice("targets", target, tuple(TARGETS))
        chosen_layers(self.layers, 1)


def chosen_layers(layers: str, depth: int) -> list[int]:
    """Return the indices of the blocks that ``all``, ``top-N`` or ``bottom-N`` names in a tower.

    Args:
        layers: The choice. An N beyond the tower's depth is all of it.
        depth: How many blocks the tower has.

    Raises:
        ConfigError: It is none of the three.
    """
    if layers == "all":
        return list(range(depth))
    side, _, number = layers.partition("-")
    if side not in ("top", "bottom") or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"layers '{layers}': expected all, top-N or bottom-N with N of at least 1, e.g. top-3."
        )
    n = min(int(number), depth)
    return list(range(depth - n, depth)) if side == "top" else list(range(n))


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ConfigError unless ``value`` is one of ``choices``."""
    need(value in choices, name, value, f"one of {', '.join(choices)}")
