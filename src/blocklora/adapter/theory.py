"""How many parameters each method trains, and the generalization bound that follows from it."""

from __future__ import annotations

import math

from blocklora.core.errors import ConfigError

__all__ = ["CLIP_WIDTHS", "generalization_bound", "qkv_shapes", "trained_numbers"]

# Widths of every block of both towers (vision, then text) of OpenAI's CLIP models: width, number of blocks.
CLIP_WIDTHS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "ViT-B/16": ((768, 12), (512, 12)),
    "ViT-B/32": ((768, 12), (512, 12)),
    "ViT-L/14": ((1024, 24), (768, 12)),
}


def qkv_shapes(backbone: str) -> list[tuple[int, int]]:
    """(d_out, d_in) of the q, k and v projections of every block of both towers of an OpenAI CLIP model.

    Args:
        backbone: A key of ``CLIP_WIDTHS``.

    Returns:
        One shape for each projection.

    Raises:
        ConfigError: The backbone is unknown.
    """
    if backbone not in CLIP_WIDTHS:
        raise ConfigError(f"backbone={backbone!r} is unknown; expected one of {', '.join(CLIP_WIDTHS)}.")
    return [(width, width) for width, blocks in CLIP_WIDTHS[backbone] for _ in range(3 * blocks)]


def trained_numbers(method: str, shapes: list[tuple[int, int]], r: int, n_blocks: int = 1) -> int:
    """Count the parameters that a method trains.

    Args:
        method: "lora", "block-lora" or "folded".
        shapes: (d_out, d_in) of every adapted layer.
        r: Total rank, a positive multiple of ``n_blocks``.
        n_blocks: Number of blocks n; LoRA has none.

    Returns:
        LoRA: r sum(d_in + d_out). Block-LoRA: sum(k d_in + r d_out), k = r / n. Folded: k sum(d_in + d_out).

    Raises:
        ConfigError: The method is unknown, or r is not a positive multiple of n_blocks.
    """
    if r < 1 or n_blocks < 1 or r % n_blocks:
        raise ConfigError(f"r={r} should be a positive multiple of n_blocks={n_blocks}.")
    k = r // n_blocks
    ranks = {"lora": (r, r), "block-lora": (k, r), "folded": (k, k)}  # ranks counted for A and for B
    if method not in ranks:
        raise ConfigError(f"method={method!r} is unknown; expected one of {', '.join(ranks)}.")
    rank_A, rank_B = ranks[method]
    return sum(rank_A * d_in + rank_B * d_out for d_out, d_in in shapes)


def generalization_bound(trained: int, samples: int, *, bits: int = 32, sigma: float = 1.0) -> float:
    """Bound the expected gap between the test and the training loss of a tuned model.

    The absolute value of the gap is at most sqrt(2 sigma^2 ln2 q P / N): Xu & Raginsky (2017), theorem 1, with the
    information that P trained parameters of q bits can hold about the samples, as Zhu et al. (2024, arXiv 2402.16842)
    use it for LoRA. See docs/bound.md.

    Args:
        trained: P, how many parameters are trained, >= 0 (``trained_numbers``).
        samples: N, how many independent training samples, >= 1.
        bits: q, bits of one parameter, >= 1.
        sigma: The loss is sigma-sub-Gaussian, > 0; a loss within [a, b] has sigma = (b - a) / 2.

    Returns:
        The bound, in units of the loss.

    Raises:
        ConfigError: An argument is out of its range.
    """
    for name, value, least in (("trained", trained, 0), ("samples", samples, 1), ("bits", bits, 1)):
        if value < least:
            raise ConfigError(f"{name}={value} should be at least {least}.")
    if not sigma > 0:
        raise ConfigError(f"sigma={sigma} should be positive.")
    return math.sqrt(2 * sigma**2 * math.log(2) * bits * trained / samples)
