"""Which partner on frozen features helps Block-LoRA most: probabilities mixed by weights from validation images.

    python benchmarks/partners.py [--out RESULT.json] [--table]

On the bundled tasks with the bundled model, ``SHOTS`` images a class, seeds ``SEEDS``: Block-LoRA is fitted once by the
demonstration's settings, and each partner to the same images. Weights and temperatures are those that make the
validation images most probable, as ``block-lora-gda`` chooses them; test images choose nothing. ``both`` is a linear
probe on adapted and frozen features side by side, ``gda, adapted`` GDA on the adapted ones. Every figure is written as
soon as it is there, and an interrupted call goes on. ``--table`` prints the table of docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier import Head, encode
from blocklora.core.device import Compute
from blocklora.data import Example, few_shot, load_dataset
from blocklora.methods import Job, fit_config, prepare
from blocklora.methods.adapters import block_lora
from blocklora.methods.frozen import gda, linear_probe, proker
from blocklora.methods.frozen.features import frozen_features, labels_of
from blocklora.methods.held_out.judging import own_temperature, with_bank
from blocklora.methods.held_out.parts import Part
from blocklora.methods.held_out.scores import mixture, scores
from blocklora.metrics import holm, pair_answers
from blocklora.run.demo import SETTINGS
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "partners.json"
DATA, SHOTS, SEEDS = ("digits", "twemoji", "clipart"), (4, 16), (1, 2, 3)
PARTNERS = ("gda", "proker", "linear-probe", "gda, adapted", "both")
REFERENCE = "block-lora + gda"

Logits = tuple[Tensor, Tensor]  # of the validation and the test images


def run(data: str, shots: int, seed: int) -> dict[str, list[bool]]:
    """Return which test images each way gets right."""
    dataset = load_dataset(data)
    config = fit_config(
        model="tiny",
        shots=shots,
        seed=seed,
        prompt=dataset.prompt,
        device="cpu",
        precision="fp32",
        **SETTINGS,
    )
    prepared = prepare(config, dataset, few_shot(dataset, shots, seed))
    compute = Compute(config.device, config.precision)
    job = with_bank(Job(prepared.task, prepared.clip, compute, seed, "partners"))
    blind = job.on_images(job.task.train, ())
    labels = labels_of(dataset.test).numpy()
    with compute.training():
        adapted = block_lora.fit(blind, config.settings).classifier
        own, test = (_features(adapted, part, compute) for part in (job.task.val, dataset.test))
        train = _features(adapted, job.task.train, compute)
        said = {"block-lora": (adapted.logits(own), adapted.logits(test))}
        frozen = torch.cat([frozen_features(job, job.task.val)[0], _plain(job, dataset.test)])
        n = len(job.task.val)
        for name, module in (("gda", gda), ("proker", proker), ("linear-probe", linear_probe)):
            result = module.fit(blind, module.METHOD.settings())  # type: ignore[attr-defined]
            logits = result.classifier.logits(frozen) / own_temperature(blind, result)
            said[name] = (logits[:n], logits[n:])
        said["gda, adapted"] = _gda(job, train, own, test)
        both = [
            F.normalize(torch.cat(pair, dim=1), dim=-1)
            for pair in (
                (train, frozen_features(job, job.task.train)[0]),
                (own, frozen[:n]),
                (test, frozen[n:]),
            )
        ]
        said["both"] = _probe(job, *both)
    return _answers(job, said, labels)


def _answers(job: Job, said: dict[str, Logits], labels: np.ndarray[Any, Any]) -> dict[str, list[bool]]:
    """Return the answers of each alone, and of Block-LoRA with each."""
    m = len(job.task.train)
    parts = [Part(job.task.train, (), tuple(range(m, m + len(job.task.val))), validated=True)]
    truth = torch.cat([labels_of(job.task.train), labels_of(job.task.val)])
    right = {}
    temperatures = {name: scores({0: own}, parts, truth)[0].temperature for name, (own, _) in said.items()}
    for name, (_, test) in said.items():
        right[name] = (test.argmax(dim=1).numpy() == labels).tolist()
        if name == "block-lora":
            continue
        found = mixture([{0: said["block-lora"][0]}, {0: said[name][0]}], parts, truth)
        each = [
            (said[one][1] / temperatures[one]).softmax(dim=1) * weight
            for one, weight in zip(("block-lora", name), found.weights, strict=True)
        ]
        right[f"block-lora + {name}"] = (sum(each).argmax(dim=1).numpy() == labels).tolist()  # type: ignore[union-attr]
    return right


def _features(classifier: Any, examples: Sequence[Example], compute: Compute) -> Tensor:
    images = [(example.image, example.source) for example in examples]
    return encode(classifier, images, compute).features


def _plain(job: Job, examples: Sequence[Example]) -> Tensor:
    return frozen_features(replace(job, bank=None), examples)[0]


def _gda(job: Job, train: Tensor, own: Tensor, test: Tensor) -> Logits:
    """Return the logits of GDA on adapted features; its weight is the one that is best on the validation images."""
    labels, texts = labels_of(job.task.train), job.scale * job.written_classes.double()
    weight, bias = gda.discriminant(train.double(), labels, len(texts))
    heads = [
        Head("linear", {"weight": (texts + alpha * weight).float(), "bias": (alpha * bias).float()})
        for alpha in (10.0 ** (i / 2) for i in range(-8, 5))
    ]
    val = labels_of(job.task.val)
    best = max(heads, key=lambda head: float((head.logits(own).argmax(dim=1) == val).double().mean()))
    return best.logits(own), best.logits(test)


def _probe(job: Job, train: Tensor, own: Tensor, test: Tensor) -> Logits:
    """Return the logits of a linear probe on given features; C is the one that is best on the validation images."""
    labels, val = labels_of(job.task.train), labels_of(job.task.val)
    heads = [linear_probe._probe(train.double(), labels, c, 1000) for c in np.logspace(-2, 4, 13).tolist()]
    best = max(heads, key=lambda head: float((head.logits(own).argmax(dim=1) == val).double().mean()))
    return best.logits(own), best.logits(test)


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return accuracies, and the difference from ``REFERENCE`` with McNemar's test after Holm, in Markdown."""
    ways = ["block-lora", *PARTNERS, *(f"block-lora + {name}" for name in PARTNERS)]
    pooled = {way: [right for one in runs for right in one["right"][way]] for way in ways}
    others = [way for way in ways if way != REFERENCE]
    pairs = {way: pair_answers(pooled[way], pooled[REFERENCE]) for way in others}
    p_values = dict(zip(others, holm([pairs[way].p_value for way in others]), strict=True))
    lines = [
        "| | " + " | ".join(f"{n} shots" for n in SHOTS) + f" | against {REFERENCE} | p |",
        "|---|---:|---:|---:|---:|",
    ]
    for way in ways:
        cells = [
            f"{100 * statistics.fmean(statistics.fmean(r['right'][way]) for r in runs if r['shots'] == n):.1f}"
            for n in SHOTS
            if any(r["shots"] == n for r in runs)
        ]
        end = "| | |" if way == REFERENCE else f"| {100 * pairs[way].difference:+.1f} | {p_values[way]:.2g} |"
        lines.append(f"| {way} | " + " | ".join(cells) + f" {end}")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the figures (JSON)")
    parser.add_argument("--table", action="store_true", help="print the table, and measure nothing")
    arguments = parser.parse_args()
    out: Path = arguments.out
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs: list[dict[str, Any]] = before.get("runs", [])
    if not arguments.table:
        torch.set_num_threads(1)
        made_with = before.get("made_with") or circumstances()
        done = {(one["data"], one["shots"], one["seed"]) for one in runs}
        for key in ((d, n, s) for n in SHOTS for s in SEEDS for d in DATA):
            if key in done:
                continue
            right = run(*key)
            runs.append({"data": key[0], "shots": key[1], "seed": key[2], "right": _small(right)})
            means = {way: round(100 * statistics.fmean(answers), 1) for way, answers in right.items()}
            print(*key, means, flush=True)
            write(out, {"made_with": made_with, "model": "tiny", "runs": runs})
    print(table([one | {"right": _large(one["right"])} for one in runs]))


def _small(right: dict[str, list[bool]]) -> dict[str, str]:
    """Return answers as text, a digit an image."""
    return {way: "".join(str(int(one)) for one in answers) for way, answers in right.items()}


def _large(right: dict[str, str]) -> dict[str, list[bool]]:
    return {way: [digit == "1" for digit in digits] for way, digits in right.items()}


if __name__ == "__main__":
    main()
