"""Which images to label next: accuracy after rounds of labelling, on the bundled tasks with the bundled model.

    python benchmarks/label_rounds.py [--out RESULT.json]

Every strategy starts from the same image a class, and labels as many images as there are classes in each of eight
rounds, from the training images. After each round GDA is fitted to what is labelled, and measured on all test images.
Figures are means over ten seeds. The strategies are those that ``suggest`` could have: chance, the smallest margin,
TypiClust (Hacohen et al., 2022), MaxHerding (arXiv 2407.12212), Uncertainty Herding (arXiv 2412.20644), and MaxHerding
up to four labels a class with one of the others from there on; the last is what it has.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from blocklora.clip import load_image_tower
from blocklora.core.device import Compute
from blocklora.data import load_dataset
from blocklora.explore.choosing import FEW, choose_images, doubt
from blocklora.findings.looking import look_at
from blocklora.methods.frozen.gda import discriminant
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "label_rounds.json"
TASKS, SEEDS, ROUNDS, ALPHA = ("digits", "twemoji", "clipart"), 10, 8, 0.1
Array = NDArray[Any]
# unlabelled features, labelled features, probabilities of the unlabelled, how many, a generator -> places
Strategy = Callable[[Array, Array, Array, int, np.random.Generator], Array]


def chance(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
    """Choose at random."""
    return draw.choice(len(rest), min(n, len(rest)), replace=False)


def margin(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
    """Choose those with the smallest margin between the two most probable classes."""
    return np.argsort(-doubt(p), kind="stable")[:n]


def typiclust(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
    """Choose the most typical image of each of the largest clusters without a label."""
    every = np.concatenate([known, rest])
    clusters = KMeans(len(known) + n, n_init=1, random_state=int(draw.integers(1 << 31))).fit_predict(every)
    free = [c for c in np.argsort(-np.bincount(clusters)) if c not in set(clusters[: len(known)])]
    chosen = []
    for cluster in free[:n]:
        places = np.flatnonzero(clusters[len(known) :] == cluster)
        near = np.sort(rest[places] @ rest[places].T, axis=1)[:, -20:]
        chosen.append(int(places[near.mean(axis=1).argmax()]))
    return np.array(chosen)


def herding(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
    """Choose those that cover most, whatever the classifier says."""
    return choose_images(rest, known, np.ones(len(rest)), n)[0]


def uncertainty_herding(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
    """Choose those that cover most of what the classifier doubts."""
    return choose_images(rest, known, doubt(p), n)[0]


def herding_first(then: Strategy) -> Strategy:
    """Return MaxHerding up to four labels a class, and another strategy from there on."""

    def strategy(rest: Array, known: Array, p: Array, n: int, draw: np.random.Generator) -> Array:
        return (herding if len(known) < FEW * p.shape[1] else then)(rest, known, p, n, draw)

    return strategy


STRATEGIES: dict[str, Strategy] = {
    "chance": chance,
    "smallest margin": margin,
    "TypiClust": typiclust,
    "MaxHerding": herding,
    "Uncertainty Herding": uncertainty_herding,
    "MaxHerding, then the smallest margin": herding_first(margin),
    "MaxHerding, then Uncertainty Herding": herding_first(uncertainty_herding),
}


def said(features: Array, labels: Array, inputs: Array, n_classes: int) -> Array:
    """Return the probabilities that GDA gives."""
    weight, bias = discriminant(torch.from_numpy(features).double(), torch.from_numpy(labels), n_classes)
    logits = ALPHA * (torch.from_numpy(inputs).double() @ weight.T + bias)
    return logits.softmax(dim=1).numpy()


def rounds(
    pool: tuple[Array, Array], test: tuple[Array, Array], strategy: Strategy, seed: int
) -> list[float]:
    """Return the accuracy after each round."""
    (features, truth), (inputs, wanted) = pool, test
    n, draw = int(truth.max()) + 1, np.random.default_rng(seed)
    labelled = [int(draw.choice(np.flatnonzero(truth == label))) for label in range(n)]
    found = []
    for _ in range(ROUNDS):
        rest = np.setdiff1d(np.arange(len(features)), labelled)
        p = said(features[labelled], truth[labelled], features[rest], n)
        labelled += rest[strategy(features[rest], features[labelled], p, n, draw)].tolist()
        answers = said(features[labelled], truth[labelled], inputs, n).argmax(axis=1)
        found.append(float((answers == wanted).mean()))
    return found


def main() -> None:
    """Simulate every strategy on every task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    base, compute = load_image_tower("tiny"), Compute(torch.device("cpu"), "fp32")
    rows = []
    for task in TASKS:
        data = load_dataset(task)
        parts = []
        for examples in (data.train, data.test):
            features = look_at([(one.image, one.source) for one in examples], base, compute).features
            parts.append((features, np.array([one.label for one in examples])))
        for name, strategy in STRATEGIES.items():
            curves = np.array([rounds(parts[0], parts[1], strategy, seed) for seed in range(SEEDS)])
            rows.append({"task": task, "strategy": name, "accuracy": curves.mean(axis=0).tolist(),
                         "mean": float(curves.mean())})  # fmt: skip
            print(task, name, f"{100 * curves.mean():.1f}", (100 * curves.mean(axis=0)).round(1), flush=True)
    write(options.out, circumstances() | {"rows": rows})


if __name__ == "__main__":
    main()
