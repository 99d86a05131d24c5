"""The measured gap between test and training loss, against the bound's ordering by trained numbers P.

    python benchmarks/generalization_gap.py [--seeds 5]

LoRA, Block-LoRA and its twin with several (r, n) are trained on 4 scans of each digit, all with the same settings,
for a fixed number of steps (``few_shot.py``). The gap is the cross-entropy on all test scans minus that on the
training scans, after the last step. The twin computes what the blocks do, up to rounding: that is checked with
seed 1, and not trained again with the others. Finished runs are kept, one line each: an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from adapter_accuracy import block, interval, lora
from few_shot import RESULTS, Run, complete, made_with
from measuring import write

SHOTS, LR = 4, 4e-3  # the rate of the demonstration
RANKS = ((2, 2), (4, 2), (4, 4), (8, 2), (8, 4), (8, 8))
IMAGE = Path(__file__).parents[1] / "docs" / "img" / "generalization_gap.svg"


class Kind(NamedTuple):
    """One point of the figure."""

    method: str
    r: int
    n: int

    @property
    def name(self) -> str:
        """As in tables."""
        return f"{self.method} r={self.r}" + (f" n={self.n}" if self.method != "LoRA" else "")

    def config(self) -> Any:
        """The adapter's configuration."""
        if self.method == "LoRA":
            return lora(r=self.r)()
        form = "folded" if self.method == "twin" else "blocks"
        return block(r=self.r, n_blocks=self.n, parametrization=form)()


KINDS = [
    *(Kind("LoRA", r, 1) for r in (2, 4, 8)),
    *(Kind(method, r, n) for method in ("Block-LoRA", "twin") for r, n in RANKS),
]


def measure(seeds: int, path: Path) -> tuple[np.ndarray, list[int], list[dict[str, Any]]]:
    """Test minus training loss of every kind with every seed (seeds, kinds), P of each kind, and with what.

    Raises:
        SystemExit: A twin's gap differs from that of its blocks.
    """
    wanted = [
        (seed, kind) for seed in range(1, seeds + 1) for kind in KINDS if kind.method != "twin" or seed == 1
    ]
    rows = complete([Run(kind.name, kind.config, SHOTS, seed, LR) for seed, kind in wanted], path)
    found = {key: row["test_loss"] - row["train_loss"] for key, row in zip(wanted, rows, strict=True)}
    trained = {kind: row["trained_numbers"] for (_, kind), row in zip(wanted, rows, strict=True)}
    for r, n in RANKS:
        twin, blocks = Kind("twin", r, n), Kind("Block-LoRA", r, n)
        if abs(found[1, twin] - found[1, blocks]) > 1e-3:
            raise SystemExit(f"{twin.name} and {blocks.name} differ: {found[1, twin]}, {found[1, blocks]}")
        found |= {(seed, twin): found[seed, blocks] for seed in range(2, seeds + 1)}
    gaps = np.array([[found[seed, kind] for kind in KINDS] for seed in range(1, seeds + 1)])
    return gaps, [trained[kind] for kind in KINDS], made_with(rows)


def analyse(gaps: np.ndarray, trained: list[int]) -> dict[str, Any]:
    """What the measured gaps say about the bound, which orders by P alone.

    Args:
        gaps: (seeds, kinds).
        trained: P of each kind.

    Returns:
        For LoRA and Block-LoRA, and again with the twin: Spearman's correlation of P with the gap for each seed, its
        mean and half interval, and how many pairs with different P have mean gaps in the bound's order. Then the
        differences LoRA minus Block-LoRA of the same r, paired by seed.
    """
    P = np.array(trained)
    place = {kind: column for column, kind in enumerate(KINDS)}
    without = [column for kind, column in place.items() if kind.method != "twin"]
    result: dict[str, Any] = {}
    for name, columns in (("lora_and_blocks", without), ("with_twin", list(place.values()))):
        rho = [float(stats.spearmanr(P[columns], row[columns]).statistic) for row in gaps]
        mean = gaps.mean(0)
        pairs = [(i, j) for i, j in combinations(columns, 2) if P[i] != P[j]]
        right = sum(bool((P[i] - P[j]) * (mean[i] - mean[j]) > 0) for i, j in pairs)
        result[name] = {
            "spearman_by_seed": rho,
            "spearman": interval(rho),
            "pairs": len(pairs),
            "pairs_in_order": right,
        }
    result["lora_minus_blocks"] = {
        f"r={r} n={n}": interval(
            list(gaps[:, place[Kind("LoRA", r, 1)]] - gaps[:, place[Kind("Block-LoRA", r, n)]])
        )
        for r, n in RANKS
    }
    return result


def drawing(points: list[dict[str, Any]]) -> str:
    """An SVG of the gap, with its interval over seeds, against P on a logarithmic axis."""
    left, right, top, bottom = 60, 620, 40, 330
    low, high = 3.95, 5.1  # log10 P
    most = 1.15 * max(p["gap"][0] + p["gap"][1] for p in points)
    looks = {"LoRA": ("#b45309", "square"), "Block-LoRA": ("#1d4ed8", "disc"), "twin": ("#047857", "ring")}

    def x(trained: float) -> float:
        return left + (np.log10(trained) - low) / (high - low) * (right - left)

    def y(gap: float) -> float:
        return bottom - gap / most * (bottom - top)

    def mark(shape: str, cx: float, cy: float, colour: str) -> str:
        if shape == "square":
            return f'<rect x="{cx - 4:.1f}" y="{cy - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        fill = colour if shape == "disc" else "#ffffff"
        return f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'

    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 400" width="660" height="400" role="img" '
        'aria-labelledby="t d" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#111827">',
        '<title id="t">Measured gap against trained numbers</title>',
        '<desc id="d">Test loss minus training loss, mean and 95% interval over seeds, against the number of '
        "trained numbers P for LoRA, Block-LoRA and its twin, labelled by r or r,n; points of one P stand side by side."
        "</desc>",
        '<rect width="660" height="400" fill="#ffffff"/>',
        f'<text x="{left - 50}" y="20">test loss - training loss</text>',
        f'<text x="{(left + right) / 2}" y="375" text-anchor="middle">trained numbers P</text>',
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#374151"/>',
    ]
    for trained in (10000, 20000, 50000, 100000):
        lines.append(
            f'<text x="{x(trained):.1f}" y="{bottom + 20}" text-anchor="middle">{trained:,}</text>'
            f'<path d="M{x(trained):.1f} {bottom}v5" stroke="#374151"/>'
        )
    for gap in np.arange(0, most, 0.5):
        lines.append(
            f'<text x="{left - 8}" y="{y(gap) + 4:.1f}" text-anchor="end">{gap:.1f}</text>'
            f'<path d="M{left} {y(gap):.1f}H{right}" stroke="#e5e7eb"/>'
        )
    for point in points:
        colour, shape = looks[point["method"]]
        beside = [p["label"] for p in points if p["trained_numbers"] == point["trained_numbers"]]
        place = x(point["trained_numbers"]) + 18 * (beside.index(point["label"]) - (len(beside) - 1) / 2)
        mean, half = point["gap"]
        lines.append(
            f'<path d="M{place:.1f} {y(mean - half):.1f}V{y(mean + half):.1f}" stroke="{colour}"/>'
            + mark(shape, place, y(mean), colour)
            + f'<text x="{place:.1f}" y="{y(mean + half) - 4:.1f}" font-size="10" text-anchor="middle">'
            f"{point['label']}</text>"
        )
    for row, (method, (colour, shape)) in enumerate(looks.items()):
        lines.append(
            mark(shape, right - 90, bottom - 66 + 18 * row, colour)
            + f'<text x="{right - 78}" y="{bottom - 62 + 18 * row}">{method}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    """Train what is missing, print the gaps and what they say, write the numbers and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds 1 to this, at least 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=RESULTS / "generalization_gap.jsonl",
        help="finished runs (default: %(default)s)",
    )
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: an interval needs at least 2 seeds")
    gaps, trained, source = measure(options.seeds, options.runs)
    points = [
        {
            "method": kind.method,
            "label": f"{kind.r}" if kind.method == "LoRA" else f"{kind.r},{kind.n}",
            "trained_numbers": p,
            "gap": interval(list(gaps[:, column])),
        }
        for column, (kind, p) in enumerate(zip(KINDS, trained, strict=True))
    ]
    found = analyse(gaps, trained)
    write(
        options.runs.with_suffix(".json"),
        {"made_with": source, "seeds": options.seeds, "points": points, **found},
    )
    IMAGE.write_text(drawing(points), encoding="utf-8")
    for kind, point in zip(KINDS, points, strict=True):
        print(
            f"{kind.name:20} P = {point['trained_numbers']:7,}  gap {point['gap'][0]:.3f} ± {point['gap'][1]:.3f}"
        )
    for name, value in found.items():
        print(name, json.dumps(value))


if __name__ == "__main__":
    main()
