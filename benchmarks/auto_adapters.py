"""Block-LoRA beside CLIP-LoRA, each as ``auto`` would run it: the same settings tried, the same folds, the same steps.

    python benchmarks/auto_adapters.py [FOLDER ...] [--out RESULT.json] [--table]

Data are the bundled tasks, and folders of photos that are named; 16 images a class, seeds ``SEEDS``, with the bundled
model. Both have the first two of auto's settings (learning rates), judged by successive halving over the folds of the
training images, with ``STEPS`` steps each; the better one is fitted to all training images. Validation images judge as
they do in ``auto``; test images choose nothing. The paired test is McNemar's, on the answers to each seed's test
images: the same images answered after three trainings count three times, so its p is too small. Every figure is
written as soon as it is there, and an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from blocklora.classifier import encode
from blocklora.core.device import Compute
from blocklora.data import DataChoice, choose, seal
from blocklora.methods import Job, fit_config, prepare
from blocklora.methods.adapters import clip_lora
from blocklora.methods.adapters.settings import AdapterSettings
from blocklora.methods.auto.contenders import adapter_settings, adapters
from blocklora.methods.auto.halving import halved
from blocklora.methods.frozen.features import labels_of
from blocklora.methods.held_out.judging import Contender, with_bank
from blocklora.methods.held_out.parts import cut
from blocklora.metrics import pair_answers
from measuring import circumstances, write

RESULT = Path(__file__).parent / "results" / "auto_adapters.json"
DATA, SHOTS, SEEDS, STEPS = ("digits", "twemoji", "clipart"), 16, (1, 2, 3), 60
NAMES = ("block-lora", "clip-lora")


def contenders(job: Job) -> dict[str, list[Contender]]:
    """Return what auto would try first of Block-LoRA, and the same of CLIP-LoRA."""
    blocks = adapters(adapter_settings(job.clip)[:2], {"iterations": STEPS})
    plain = [
        replace(
            one,
            key=one.key.replace("block", "clip"),
            method="clip-lora",
            fit=clip_lora.fit,
            settings=AdapterSettings(
                **{name: value for name, value in one.given.items() if name != "n_blocks"}
            ),
        )
        for one in blocks
    ]
    return {"block-lora": blocks, "clip-lora": plain}


def run(data: str, seed: int) -> dict[str, Any]:
    """Choose and fit both; return what they chose, and which test images each gets right."""
    whole, drawn = choose(DataChoice(data), SHOTS, seed)
    config = fit_config(
        model="tiny", shots=SHOTS, seed=seed, prompt=whole.prompt, device="cpu", precision="fp32"
    )
    dataset, split, sealed = seal(whole, drawn)
    prepared = prepare(config, dataset, split)
    compute = Compute(config.device, config.precision)
    job = with_bank(Job(prepared.task, prepared.clip, compute, seed, "auto_adapters"))
    parts, labels = cut(job.task, seed), torch.cat([labels_of(job.task.train), labels_of(job.task.val)])
    fits = {}
    with compute.training():
        for name, tried in contenders(job).items():
            began = time.process_time()
            _, dropped = halved(job, tried, parts, labels, give_up=str, short=lambda _: False)
            (best,) = [one for one in tried if one.key not in dropped]
            fits[name] = (best, best.fit(job, best.settings).classifier, time.process_time() - began)
    test = sealed.open_after_training()
    images = [(example.image, example.source) for example in test]
    found: dict[str, Any] = {"data": Path(data).name, "seed": seed}
    for name, (best, classifier, seconds) in fits.items():
        encoded = encode(classifier, images, compute)
        right = classifier.top(encoded.features, 1)[0][:, 0].tolist()
        found[name] = {
            "lr": best.given["lr"],
            "cpu_seconds": round(seconds, 1),
            "right": "".join(
                str(int(said == test[index].label)) for said, index in zip(right, encoded.kept, strict=True)
            ),
        }
    return found


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return mean accuracies by data, their difference in points and McNemar's test, in Markdown."""
    lines = [
        "| data | block-lora | clip-lora | difference | only one of them right | p |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    names = list(dict.fromkeys(one["data"] for one in runs))
    for name in (*names, "all"):
        own = [one for one in runs if name in (one["data"], "all")]
        means = [100 * statistics.fmean(_share(one[method]["right"]) for one in own) for method in NAMES]
        pair = pair_answers(
            *([digit == "1" for one in own for digit in one[method]["right"]] for method in NAMES)
        )
        alone = f"{pair.only_first} : {pair.only_second}"
        lines.append(
            f"| {name} | {means[0]:.1f} | {means[1]:.1f} | {means[0] - means[1]:+.1f} | {alone} | {pair.p_value:.2g} |"
        )
    return "\n".join(lines)


def _share(digits: str) -> float:
    return digits.count("1") / len(digits)


def main() -> None:
    """Do what is missing, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", help="folders of photos, measured as well")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the figures (JSON)")
    parser.add_argument("--table", action="store_true", help="print the table, and measure nothing")
    arguments = parser.parse_args()
    out: Path = arguments.out
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs: list[dict[str, Any]] = before.get("runs", [])
    if not arguments.table:
        torch.set_num_threads(1)
        made_with = before.get("made_with") or circumstances()
        done = {(one["data"], one["seed"]) for one in runs}
        for seed in SEEDS:
            for data in (*DATA, *arguments.folders):
                if (Path(data).name, seed) not in done:
                    runs.append(run(data, seed))
                    print(data, seed, {name: _share(runs[-1][name]["right"]) for name in NAMES}, flush=True)
                    write(out, {"made_with": made_with, "model": "tiny", "steps": STEPS, "runs": runs})
    print(table(runs))


if __name__ == "__main__":
    main()
