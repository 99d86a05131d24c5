"""Step 6: the text tower, distilled to the MiniLM targets of the phrases.

Each phrase is put into a random template and must land on the target of the bare phrase: cosine distance, plus a
small contrastive term that keeps near phrases apart. Emoji phrases are drawn more often than WordNet's. Four batches
are drawn at once, sorted by length and shuffled, so that little of a batch is padding.

Axes: n phrases, b phrases in a batch, t tokens, 256 the projection.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from checkpoint import Run
from concepts import load_concepts
from dataset import load_phrases
from model import CONTEXT, build, text_features
from optim import build_optimisers, set_rate, update
from paths import TEXT_RUN, TOKENIZER
from tokenizer import TEMPLATES
from torch import Generator, Tensor
from torch.nn import functional
from train_image import step_generator
from transformers import BatchEncoding, CLIPModel, CLIPTokenizer

ROUND = 4  # batches drawn and sorted together
ALL_TEMPLATES = ("{}", "{}", *TEMPLATES)


@dataclass(frozen=True)
class TextConfig:
    """Settings of the text tower's training."""

    n_steps: int = 1000
    batch_size: int = 192
    adam_rate: float = 1.2e-3
    muon_rate: float = 2.5e-3
    warm_up: int = 100
    scale: float = 20.0
    contrast_weight: float = 0.1
    n_held_out: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_steps % ROUND:
            raise ValueError(f"n_steps must be a multiple of {ROUND}, got {self.n_steps}")


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> BatchEncoding:
    """Return ids and mask, [n, t]."""
    return tokenizer(texts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")


def held_out(n_phrases: int, n_emoji: int, size: int, seed: int) -> Tensor:
    """Return WordNet phrases that are never trained on."""
    return n_emoji + torch.randperm(n_phrases - n_emoji, generator=step_generator(seed, -1))[:size]


def draw_weights(phrases: list[str], n_emoji: int, unseen: Tensor) -> Tensor:
    """Return how often each phrase is drawn: WordNet 1, emoji keywords 6, emoji labels 12, held out 0, [n]."""
    labels = {c.label for c in load_concepts().values()}
    weights = [12.0 if p in labels else 6.0 if i < n_emoji else 1.0 for i, p in enumerate(phrases)]
    out = torch.tensor(weights)
    out[unseen] = 0
    return out


def draw_round(
    weights: Tensor, lengths: Tensor, batch_size: int, generator: Generator
) -> Iterator[tuple[Tensor, str]]:
    """Yield four batches of phrases of like length, each with its template."""
    drawn = torch.multinomial(weights, ROUND * batch_size, replacement=True, generator=generator)
    noise = torch.rand(len(drawn), generator=generator)
    batches = drawn[(lengths[drawn] + noise).argsort()].view(ROUND, batch_size)
    for place in torch.randperm(ROUND, generator=generator).tolist():
        choice = int(torch.randint(len(ALL_TEMPLATES), (), generator=generator))
        yield batches[place], ALL_TEMPLATES[choice]


def distillation_losses(texts: Tensor, targets: Tensor, index: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the mean cosine distance, and the cross-entropy of each text among the batch's targets.

    Args:
        texts: unit length, [b, 256].
        targets: unit length, [b, 256].
        index: which phrase each is; equal phrases share the mass, [b].
        scale: inverse temperature.
    """
    distance = (1 - (texts * targets).sum(-1)).mean()
    same = (index[:, None] == index).float()
    contrast = functional.cross_entropy(scale * texts @ targets.T, same / same.sum(1, keepdim=True))
    return distance, contrast


@torch.no_grad()
def embed_texts(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str], batch_size: int = 256
) -> Tensor:
    """Return unit-length text features, [n, 256]."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = tokenise(tokenizer, texts[start : start + batch_size]).to(device)
        parts.append(
            functional.normalize(text_features(model, batch.input_ids, batch.attention_mask), dim=-1).cpu()
        )
    return torch.cat(parts)


def fidelity(
    model: CLIPModel, tokenizer: CLIPTokenizer, phrases: list[str], targets: Tensor
) -> dict[str, float]:
    """Return the mean cosine to the targets, and r@1 among them, of phrases in one plain template."""
    found = embed_texts(model, tokenizer, [f"a photo of a {p}." for p in phrases])
    hits = (found @ targets.T).argmax(1) == torch.arange(len(phrases))
    cosine = (found * targets).sum(-1).mean().item()
    return {"cosine": round(cosine, 4), "r1": round(hits.float().mean().item(), 4)}


def train(config: TextConfig, *, save_every: int = 100) -> None:
    """Train the text tower, or go on where an earlier call was cut off."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    phrases, targets, n_emoji = load_phrases()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    unseen = held_out(len(phrases), n_emoji, config.n_held_out, config.seed)
    unseen_phrases = [phrases[i] for i in unseen.tolist()]
    weights = draw_weights(phrases, n_emoji, unseen)
    lengths = torch.tensor([len(ids) for ids in tokenizer(phrases)["input_ids"]])
    model = build(config.seed).to(device)
    trained = [model.text_model, model.text_projection]
    parameters = [p for module in trained for p in module.parameters()]
    optimisers = build_optimisers(trained, model.text_model.encoder, config.adam_rate, config.muon_rate)
    run = Run(TEXT_RUN, {"model": model}, optimisers)
    record = run.resume() or {"step": 0, "seconds": 0.0, "log": [], "config": asdict(config)}
    started, smooth = time.monotonic() - record["seconds"], None
    for step in range(record["step"], config.n_steps, ROUND):
        generator = step_generator(config.seed, step)
        batches = draw_round(weights, lengths, config.batch_size, generator)
        for place, (index, template) in enumerate(batches):
            set_rate(optimisers, step + place, config.n_steps, config.warm_up)
            batch = tokenise(tokenizer, [template.format(phrases[i]) for i in index.tolist()]).to(device)
            texts = functional.normalize(text_features(model, batch.input_ids, batch.attention_mask), dim=-1)
            losses = distillation_losses(texts, targets[index].to(device), index.to(device), config.scale)
            update(optimisers, losses[0] + config.contrast_weight * losses[1], parameters)
            values = torch.stack(losses).detach().cpu()
            smooth = values if smooth is None else 0.98 * smooth + 0.02 * values
        done = step + ROUND
        if done % save_every == 0 or done == config.n_steps:
            seconds = time.monotonic() - started
            entry = {"step": done, "seconds": round(seconds), "distance": round(smooth[0].item(), 4)}
            entry |= {"contrast": round(smooth[1].item(), 3)}
            entry |= {"held_out": fidelity(model, tokenizer, unseen_phrases, targets[unseen])}
            record |= {"step": done, "seconds": seconds, "log": [*record["log"], entry]}
            run.save(record)
            print(json.dumps(entry), flush=True)
    run.finish(record)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=TextConfig.n_steps)
    parser.add_argument("--batch-size", type=int, default=TextConfig.batch_size)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(TextConfig(n_steps=args.steps, batch_size=args.batch_size, seed=args.seed))


if __name__ == "__main__":
    main()
