"""One few-shot training run of an adapter on the bundled ``digits``, and a list of runs that can be interrupted.

Shared by ``adapter_accuracy.py`` and ``generalization_gap.py``. Every run trains q, k and v of both towers of the
bundled tiny CLIP for ``STEPS`` steps and is measured after the last one, and nothing is chosen on test scans.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.adapter import param_groups
from blocklora.clip import image_features, load_clip, pixels, text_features, tokenize
from blocklora.data import Example, few_shot, load_dataset, open_image, prompts
from measuring import circumstances

TARGETS = ["q_proj", "k_proj", "v_proj"]
STEPS, BATCH_SIZE, WEIGHT_DECAY, LAST_LR = 100, 16, 1e-2, 1e-6
RESULTS = Path(__file__).parent / "results"


class Run(NamedTuple):
    """What makes a run: an adapter, and what it is trained on."""

    name: str
    config: Callable[[], peft.PeftConfig]
    shots: int
    seed: int
    lr: float
    measured_on: str = "test"  # or "val", to choose settings: test scans are not opened then

    @property
    def key(self) -> str:
        """What tells this run from all others in a file."""
        return f"{self.name} | {self.shots} shots | seed {self.seed} | lr {self.lr:g} | {self.measured_on}"


class Digits:
    """The bundled scans as pixel values, and the prompts of the ten classes, prepared once."""

    def __init__(self) -> None:
        self.data = load_dataset("digits")
        clip = load_clip("tiny")
        self.tokens, _ = tokenize(
            prompts(self.data.class_names, self.data.prompt), clip.tokenizer, clip.context_length
        )
        every = (*self.data.train, *self.data.val, *self.data.test)
        self._pixels = {e.image: pixels(open_image(e.source), clip.processor) for e in every}
        scans = b"".join(bytes([e.label]) + open_image(e.source).tobytes() for e in every)
        self.sha256 = hashlib.sha256(scans).hexdigest()

    def batch(self, examples: list[Example] | tuple[Example, ...]) -> tuple[Tensor, Tensor]:
        """Pixel values (M, 3, S, S) and labels (M,)."""
        return torch.stack([self._pixels[e.image] for e in examples]), torch.tensor(
            [e.label for e in examples]
        )


def fit(run: Run, digits: Digits) -> dict[str, Any]:
    """Train one adapter, and measure it after the last step.

    Returns:
        Trained numbers; cross-entropy and accuracy on the training scans and on ``measured_on``; seconds.
    """
    began = time.perf_counter()
    split = few_shot(digits.data, run.shots, run.seed)
    torch.manual_seed(run.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        model = peft.get_peft_model(load_clip("tiny").model, run.config())
    _train(model, digits, *digits.batch(split.train), run)
    parts = {"train": split.train, run.measured_on: getattr(digits.data, run.measured_on)}
    measured = {name: _measure(model, digits, *digits.batch(part)) for name, part in parts.items()}
    return {
        "key": run.key,
        "name": run.name,
        "shots": run.shots,
        "seed": run.seed,
        "lr": run.lr,
        "trained_numbers": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{f"{name}_{what}": value for name, both in measured.items() for what, value in both.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }


def _train(model: Any, digits: Digits, images: Tensor, labels: Tensor, run: Run) -> None:
    """AdamW with half a cosine, ``STEPS`` steps; the scans come in a new order each epoch."""
    optimizer = torch.optim.AdamW(param_groups(model, run.lr, WEIGHT_DECAY))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: LAST_LR / run.lr + (1 - LAST_LR / run.lr) * _half_cosine(step)
    )
    model.train()
    for rows in _orders(len(labels), run.seed):
        loss = F.cross_entropy(_logits(model, digits, images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _half_cosine(step: int) -> float:
    return (1 + math.cos(math.pi * step / STEPS)) / 2


def _orders(count: int, seed: int) -> Iterator[Tensor]:
    """The rows of each step's batch."""
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    for _ in range(STEPS):
        if not batches:
            batches = list(torch.randperm(count, generator=generator).split(BATCH_SIZE))
        yield batches.pop(0)


def _logits(model: Any, digits: Digits, images: Tensor) -> Tensor:
    """Scaled cosines of images (M, 3, S, S) and classes: (M, 10)."""
    clip = model.get_base_model()
    features = torch.cat([image_features(clip, part) for part in images.split(256)])
    return clip.logit_scale.exp() * features @ text_features(clip, digits.tokens).T


@torch.no_grad()
def _measure(model: Any, digits: Digits, images: Tensor, labels: Tensor) -> dict[str, float]:
    logits = _logits(model, digits, images)
    right = (logits.argmax(1) == labels).double().mean()
    return {"loss": F.cross_entropy(logits.double(), labels).item(), "accuracy": right.item()}


def complete(runs: list[Run], path: Path) -> list[dict[str, Any]]:
    """Do the runs that the file lacks, one line of JSON each; an interrupted call loses one run at most.

    Args:
        runs: All runs that are wanted.
        path: The file; it is made if it is not there.

    Returns:
        The wanted runs' lines, in their order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["key"]: row for row in finished(path)}
    missing = [run for run in runs if run.key not in done]
    digits = Digits() if missing else None
    for count, run in enumerate(missing, 1):
        row = fit(run, digits) | circumstances() | {"data_sha256": digits.sha256}
        done[run.key] = row
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        accuracy = row[f"{run.measured_on}_accuracy"]
        print(f"{count}/{len(missing)} {run.key}: {accuracy:.3f}, {row['seconds']} s", flush=True)
    return [done[run.key] for run in runs]


def finished(path: Path) -> list[dict[str, Any]]:
    """The file's whole lines; a last line that was cut off by an interruption is passed over."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def made_with(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct circumstances of runs, in the order of the runs."""
    names = ("git_commit", "changed_since_commit", "versions", "machine", "data_sha256")
    found: list[dict[str, Any]] = []
    for row in rows:
        these = {name: row[name] for name in names}
        if these not in found:
            found.append(these)
    return found
