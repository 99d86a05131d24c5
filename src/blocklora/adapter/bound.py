"""A table of trained parameters and bounds for CLIP's backbones: ``python -m blocklora.adapter.bound``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from blocklora.adapter.theory import CLIP_WIDTHS, generalization_bound, qkv_shapes, trained_numbers

__all__ = ["main", "table"]

_RANKS = ((2, 2), (4, 2), (4, 4), (8, 2), (8, 4), (8, 8))


def table(samples: int, *, bits: int, sigma: float) -> str:
    """Trained parameters P, and the bound, of LoRA, Block-LoRA and folded Block-LoRA on q, k, v of both towers.

    Args:
        samples: N, training images.
        bits: q, bits of one trained parameter.
        sigma: The loss is sigma-sub-Gaussian.

    Returns:
        A Markdown table.
    """
    head = "| backbone | r | n | LoRA P | bound | Block-LoRA P | bound | folded P | bound |"
    lines = [head, "|---|" + "---:|" * 8]
    for name in CLIP_WIDTHS:
        for r, n in _RANKS:
            counts = [
                trained_numbers(kind, qkv_shapes(name), r, n) for kind in ("lora", "block-lora", "folded")
            ]
            cells = [
                f"{p:,} | {generalization_bound(p, samples, bits=bits, sigma=sigma):.1f}" for p in counts
            ]
            lines.append(f"| {name} | {r} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for the given number of samples, bits and sigma."""
    parser = argparse.ArgumentParser(prog="python -m blocklora.adapter.bound", description=main.__doc__)
    parser.add_argument(
        "--samples", type=int, default=16_000, help="training images N (default: %(default)s)"
    )
    parser.add_argument("--bits", type=int, default=16, help="bits of one parameter q (default: %(default)s)")
    parser.add_argument("--sigma", type=float, default=1.0, help="sub-Gaussian sigma (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(table(options.samples, bits=options.bits, sigma=options.sigma))


if __name__ == "__main__":
    main()
