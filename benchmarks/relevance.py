"""Whether heat maps find the patches that an answer rests on: deletion and insertion, beside rollout and chance.

    python benchmarks/relevance.py [--data NAME ...] [--images 100] [--out RESULT.json]

A classifier is fitted to 16 images a class with the bundled model. Of test images the patches are taken away in the
order of a heat map, those of the most relevance first, and replaced by the mean colour (deletion); or put back onto the
mean colour (insertion). The mean probability of the predicted class over all steps says how good the order is: low for
deletion, high for insertion (Petsiuk et al., RISE, 2018). Compared are the library's value projections, those of the
last layer alone, attention rollout (Abnar and Zuidema, 2020), and a random order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from blocklora.classifier import Classifier, heat_maps
from blocklora.clip import crop_size, pixels, relevance
from blocklora.core.device import Compute
from blocklora.data import DataChoice, choose, open_for_model
from blocklora.methods import fit_classifier, fit_config, prepare
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "relevance.json"
DATA, METHODS = ("digits", "twemoji", "clipart"), ("linear-probe",)
STEPS = 12


@torch.no_grad()
def rollout(model: Any, pixel_values: Tensor) -> Tensor:
    """Return attention rollout (B, G, G): heads averaged, half of each layer the identity."""
    vision = model.vision_model
    n_heads = int(vision.config.num_attention_heads)
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values))  # (B, L, V)
    batch, length, width = hidden.shape
    flow = torch.eye(length).expand(batch, -1, -1)
    for layer in vision.encoder.layers:
        normed = layer.layer_norm1(hidden)
        query, keys = (
            p(normed).view(batch, length, n_heads, -1).transpose(1, 2)
            for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        shares = (query @ keys.transpose(2, 3) * (width // n_heads) ** -0.5).softmax(dim=-1).mean(dim=1)
        flow = (shares / 2 + torch.eye(length) / 2) @ flow
        hidden = layer(hidden, None)
    found = flow[:, 0, 1:]
    grid = round(found.shape[1] ** 0.5)
    return found.view(batch, grid, grid)


@torch.no_grad()
def last_layer(classifier: Classifier, pixel_values: Tensor, labels: Any) -> Tensor:
    """Return the library's maps (B, G, G) with the values of the last layer alone."""
    read = relevance._read_by_class_token
    layers = classifier.adapted_tower.vision_model.encoder.layers

    def of_the_last(layer: Any, hidden: Tensor, n_heads: int) -> Tensor:
        return read(layer, hidden, n_heads) if layer is layers[-1] else torch.zeros_like(hidden)

    with patch.object(relevance, "_read_by_class_token", of_the_last):
        found = heat_maps(classifier, pixel_values, labels, Compute(torch.device("cpu"), "fp32"))
    return torch.from_numpy(found)


@torch.no_grad()
def areas(classifier: Classifier, pixel_values: Tensor, heat: Any, labels: Any) -> tuple[float, float]:
    """Return the mean probability of the label over the steps of deletion, and of insertion."""
    batch, _, side, _ = pixel_values.shape
    flat = torch.as_tensor(np.ascontiguousarray(heat)).reshape(batch, -1)
    order = flat.argsort(dim=1, descending=True)
    ranks = order.argsort(dim=1).view(heat.shape).float() / flat.shape[1]  # (B, G, G), 0 is the most relevant
    ranks = torch.nn.functional.interpolate(ranks[:, None], size=(side, side), mode="nearest")  # (B, 1, S, S)
    means = []
    for inserted in (False, True):
        shares = []
        for step in range(STEPS + 1):
            first = ranks < step / STEPS
            kept = torch.where(first if inserted else ~first, pixel_values, torch.zeros(()))
            features = classifier.image_features(kept).float()
            shares.append(classifier.probabilities(features)[np.arange(batch), labels].mean())
        means.append(float(np.mean(shares)))
    return means[0], means[1]


def measure(data: str, method: str, n_images: int) -> dict[str, Any]:
    """Fit, and compare the three orders on the first test images of a shuffle."""
    dataset, split = choose(DataChoice(data), 16, 1)
    more = {"iterations": 300} if method == "block-lora" else {}
    config = fit_config(
        model="tiny",
        method=method,
        shots=16,
        seed=1,
        prompt=dataset.prompt,
        device="cpu",
        precision="fp32",
        **more,
    )
    fit = fit_classifier(prepare(config, dataset, split), config)
    classifier, processor = fit.classifier, fit.classifier.base.processor
    rng = np.random.default_rng(0)
    places = rng.permutation(len(split.test))[:n_images]
    values = torch.stack(
        [pixels(open_for_model(split.test[i].source, crop_size(processor)), processor) for i in places]
    )
    with torch.no_grad():
        labels = classifier.probabilities(classifier.image_features(values).float()).argmax(axis=1)
    ours = heat_maps(classifier, values, labels, Compute(torch.device("cpu"), "fp32"))
    last = last_layer(classifier, values, labels)
    orders = {
        "value projections": ours,
        "last layer alone": last.numpy(),
        "rollout": rollout(classifier.adapted_tower, values).numpy(),
        "random": rng.random(ours.shape),
    }
    found = {name: areas(classifier, values, heat, labels) for name, heat in orders.items()}
    return {
        "data": Path(data).name,
        "method": method,
        "images": len(places),
        **{name: {"deletion": d, "insertion": i} for name, (d, i) in found.items()},
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a row for each order: deletion and insertion for each data set."""
    names = [run["data"] for run in runs]
    lines = [f"| deletion / insertion | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for order in ("value projections", "last layer alone", "rollout", "random"):
        cells = [f"{run[order]['deletion']:.3f} / {run[order]['insertion']:.3f}" for run in runs]
        lines.append(f"| {order} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    runs = []
    for data in arguments.data:
        for method in METHODS:
            runs.append(run := measure(data, method, arguments.images))
            print(run, flush=True)
            write(arguments.out, {"runs": runs, **circumstances()})
    print(table(runs))


if __name__ == "__main__":
    main()
