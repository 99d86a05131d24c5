"""Step 11: the figures of the model card, from the shipped model, written to results.json.

- Retrieval: 400 Twemoji pictures, a style never trained on, each among the 400 labels ("an icon of a {label}.").
- The text tower's agreement with its MiniLM targets on phrases it never saw.
- Zero-shot, a linear probe of fixed strength, and LoRA (r = 4, 16 shots), on the two bundled tasks.

Every part is stored as soon as it is measured, so that a cut-off call goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from checkpoint import load
from concepts import Concept
from dataset import load_phrases, load_test
from pack import SHIPPED
from paths import IMAGE_RUN, RESULTS, TEXT_RUN
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from train_image import picture_features
from train_text import embed_texts, fidelity, held_out
from transformers import CLIPModel, CLIPTokenizer

from blocklora.classifier import encode
from blocklora.data import Dataset, Example, few_shot, load_dataset
from blocklora.methods import Fit, fit_classifier, fit_config, prepare
from blocklora.metrics import wilson_interval

N_RETRIEVED, RETRIEVAL_SEED = 400, 0
SHOTS, PROBE_STRENGTH = 16, 0.01
TASKS = ("digits", "twemoji")
LORA = {"r": 4, "alpha": 2.0, "lr": 2e-3, "iterations": 150, "batch_size": 32, "dropout": 0.1}
PACKAGES = (
    "blocklora",
    "torch",
    "transformers",
    "peft",
    "scikit-learn",
    "scipy",
    "numpy",
    "pillow",
    "tokenizers",
)


def share(hits: torch.Tensor | np.ndarray) -> dict[str, Any]:
    """Return a proportion with its count and Wilson's 95% interval."""
    n_right, n = int(hits.sum()), len(hits)
    low, high = wilson_interval(n_right, n)
    return {"value": round(n_right / n, 4), "interval": [round(low, 4), round(high, 4)], "n": n}


def over_seeds(values: list[float], n_test: int) -> dict[str, Any]:
    """Return the mean and a 95% interval that covers both sources of chance, as far as they are known.

    Args:
        values: one accuracy per seed.
        n_test: on how many pictures, the same for every seed.

    Returns:
        ``interval`` is the hull of Student's interval over seeds (from two seeds on) and Wilson's over test pictures.
    """
    mean = float(np.mean(values))
    low, high = wilson_interval(round(mean * n_test), n_test)
    out: dict[str, Any] = {"mean": round(mean, 4), "values": [round(v, 4) for v in values]}
    out["interval_pictures"] = [round(low, 4), round(high, 4)]
    out["interval_seeds"] = None
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
        out["interval_seeds"] = [round(mean - half, 4), round(mean + half, 4)]
        low, high = min(low, mean - half), max(high, mean + half)
    out["interval"] = [round(low, 4), round(high, 4)]
    return out


def retrieval() -> dict[str, Any]:
    """Measure r@1 and r@5 of unseen pictures among their labels."""
    model, tokenizer = load_shipped()
    data = load_test()
    labels: dict[str, int] = {}
    order = torch.randperm(len(data.row), generator=torch.Generator().manual_seed(RETRIEVAL_SEED)).tolist()
    for i in order:
        concept: Concept = data.concepts[int(data.concept[i])]
        if len(labels) < N_RETRIEVED:
            labels.setdefault(concept.label, i)
    index = torch.tensor(list(labels.values()))
    data.pictures = data.pictures[index]
    images = picture_features(model, data)
    texts = embed_texts(model, tokenizer, [f"an icon of a {label}." for label in labels])
    own = torch.arange(len(index))[:, None]
    nearest = (images @ texts.T).topk(5).indices  # [400, 5]
    return {
        "r1": share((nearest[:, :1] == own).any(1)),
        "r5": share((nearest == own).any(1)),
        "prompt": "an icon of a {}.",
    }


def load_shipped() -> tuple[CLIPModel, CLIPTokenizer]:
    """Return the shipped model in float32, and its tokenizer."""
    model = CLIPModel.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    return model, CLIPTokenizer.from_pretrained(SHIPPED)


def text_fidelity() -> dict[str, Any]:
    """Measure held-out WordNet phrases, and a sample of the emoji phrases that were trained on."""
    model, tokenizer = load_shipped()
    phrases, targets, n_emoji = load_phrases()
    _, record = load(TEXT_RUN / "final.safetensors")
    config = record["config"]
    unseen = held_out(len(phrases), n_emoji, config["n_held_out"], config["seed"]).tolist()
    seen = torch.randperm(n_emoji, generator=torch.Generator().manual_seed(0))[:500].tolist()
    return {
        name: fidelity(model, tokenizer, [phrases[i] for i in index], targets[index])
        for name, index in (("held_out_wordnet", unseen), ("trained_emoji", seen))
    }


def features_of(fitted: Fit, examples: Sequence[Example]) -> torch.Tensor:
    """Return image features of a fitted classifier, [n, 256]."""
    return encode(fitted.classifier, [(e.image, e.source) for e in examples], fitted.compute).features


def labels_of(examples: Sequence[Example]) -> np.ndarray:
    """Return the labels, [n]."""
    return np.array([e.label for e in examples])


def fit(task: Dataset, seed: int, method: str, **options: Any) -> tuple[Fit, float]:
    """Fit to 16 shots; return the classifier and the seconds it took."""
    config = fit_config(
        model=str(SHIPPED), method=method, shots=SHOTS, seed=seed, prompt=task.prompt, device="cpu", **options
    )
    started = time.monotonic()
    fitted = fit_classifier(prepare(config, task, few_shot(task, SHOTS, seed)), config)
    return fitted, time.monotonic() - started


def right(fitted: Fit, features: torch.Tensor, examples: Sequence[Example]) -> np.ndarray:
    """Return which images the classifier gets right, bool [n]."""
    return np.asarray(fitted.classifier.probabilities(features)).argmax(1) == labels_of(examples)


def frozen(name: str, seeds: list[int]) -> dict[str, Any]:
    """Measure the model as it is: by class names, and logistic regression on its standardised image features."""
    task = load_dataset(name)
    fitted, _ = fit(task, 0, "zero-shot")
    test = features_of(fitted, task.test)  # [n, 256]
    out: dict[str, Any] = {"zero_shot": share(right(fitted, test, task.test)), "linear_probe": {}}
    out |= {"n_classes": len(task.class_names), "prompt": task.prompt}
    for seed in seeds:
        chosen = few_shot(task, SHOTS, seed).train
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_STRENGTH, max_iter=1000))
        probe.fit(features_of(fitted, chosen).numpy(), labels_of(chosen))
        out["linear_probe"][str(seed)] = float(probe.score(test.numpy(), labels_of(task.test)))
    return out


def lora(name: str, seed: int) -> dict[str, Any]:
    """Measure plain LoRA on queries, keys and values of both towers."""
    task = load_dataset(name)
    fitted, seconds = fit(task, seed, "clip-lora", **LORA)
    hits = right(fitted, features_of(fitted, task.test), task.test)
    return {"accuracy": float(hits.mean()), "seconds": round(seconds, 1)}


def training_record() -> dict[str, Any]:
    """Return the settings, steps, seconds and logs of both runs."""
    return {
        name: load(folder / "final.safetensors")[1]
        for name, folder in (("image", IMAGE_RUN), ("text", TEXT_RUN))
    }


def environment() -> dict[str, Any]:
    """Return versions and machine."""
    versions = {p: version(p) for p in PACKAGES}
    machine = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"python": platform.python_version(), **versions, **machine, "threads": torch.get_num_threads()}


def summarise(parts: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """Return one entry per task; a gain is shown if the interval of the runs lies above zero-shot's.

    At least three seeds are asked for.
    """
    out = {}
    for name in TASKS:
        before = parts[f"frozen {name}"]["zero_shot"]
        runs = [parts[f"lora {name} {s}"] for s in seeds if f"lora {name} {s}" in parts]
        probe = over_seeds(list(parts[f"frozen {name}"]["linear_probe"].values()), before["n"])
        adapted = over_seeds([run["accuracy"] for run in runs], before["n"])
        adapted["seconds"] = [run["seconds"] for run in runs]
        for found in (probe, adapted):
            enough = len(found["values"]) >= 3
            found["gain_over_zero_shot_shown"] = enough and found["interval"][0] > before["interval"][1]
        out[name] = {"zero_shot": before, "linear_probe": probe, "lora": adapted}
    return out


def measure(seeds: list[int]) -> None:
    """Measure what is missing, and write results.json after each part."""
    sha256 = hashlib.sha256((SHIPPED / "model.safetensors").read_bytes()).hexdigest()
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    parts = old.get("parts", {}) if old.get("model_sha256") == sha256 else {}
    jobs: dict[str, Callable[[], dict[str, Any]]] = {"retrieval": retrieval, "text fidelity": text_fidelity}
    jobs |= {f"frozen {n}": lambda n=n: frozen(n, seeds) for n in TASKS}
    for s in seeds:
        jobs |= {f"lora {n} {s}": lambda n=n, s=s: lora(n, s) for n in TASKS}
    for name, job in jobs.items():
        if name not in parts:
            parts[name] = job()
            print(name, json.dumps(parts[name]), flush=True)
        settings = {"shots": SHOTS, "seeds": seeds, "lora": LORA, "probe_C": PROBE_STRENGTH}
        settings |= {"retrieval_seed": RETRIEVAL_SEED, "n_retrieved": N_RETRIEVED}
        record = {"model_sha256": sha256, "settings": settings, "environment": environment(), "parts": parts}
        if all(f"lora {n} {seeds[0]}" in parts for n in TASKS):
            record["tasks"] = summarise(parts, seeds)
        record["training"] = training_record()
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    measure(parser.parse_args().seeds)


if __name__ == "__main__":
    main()
