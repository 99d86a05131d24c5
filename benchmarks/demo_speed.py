"""How much faster the demonstration trains on the lean engine than on transformers' own forward.

    python benchmarks/demo_speed.py [--rounds N] [--out RESULT.json]

The demonstration's settings, model and images; the two engines in turn in one process, a few steps each, on one
thread. CPU time of a step, image reading included; the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch

from blocklora.clip import TINY
from blocklora.data import few_shot, load_dataset
from blocklora.methods import fit_classifier, fit_config, prepare
from blocklora.run.demo import SETTINGS
from measuring import circumstances, ratio, write

STEPS, SHOTS = 9, 16


def seconds_a_step(engine: str) -> float:
    """CPU seconds of a training step, from the first that is reported to the last."""
    config = fit_config(model=TINY, shots=SHOTS, seed=1, engine=engine, **SETTINGS | {"iterations": STEPS})
    dataset = load_dataset("digits")
    seen: list[tuple[int, float]] = []
    fit_classifier(
        prepare(config, dataset, few_shot(dataset, SHOTS, 1)),
        config,
        on_step=lambda step, *_: seen.append((step, time.process_time())),
    )
    (first, start), (last, end) = seen[0], seen[-1]
    return (end - start) / (last - first)


def main() -> None:
    """Measure, and write the numbers with what they were made on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (default 5)")
    default = Path(__file__).parent / "results" / "demo_speed.json"
    parser.add_argument("--out", type=Path, default=default, help="where to write the numbers (JSON)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made_on = circumstances()
    seconds: dict[str, list[float]] = {"plain": [], "lean": []}
    for _ in range(arguments.rounds):
        for engine, found in seconds.items():
            found.append(seconds_a_step(engine))
    faster = ratio(seconds["plain"], seconds["lean"])
    write(arguments.out, made_on | {"steps": STEPS, "seconds_a_step": seconds, "faster": faster})
    medians = {engine: round(statistics.median(found), 3) for engine, found in seconds.items()}
    print(f"CPU seconds a step: {medians}; lean is {faster:.2f} times faster")


if __name__ == "__main__":
    main()
