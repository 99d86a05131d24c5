"""Step 7: the image tower, trained against fixed text targets and the teacher's features.

Each picture is classified among all concepts (one freshly sampled phrase per concept, or the concept's blend of
phrases), each phrase in the batch is classified among the batch's pictures, and a small head predicts the teacher's
features. The first three quarters of the steps see only half of each picture's patches.

Axes: b pictures, k concepts, 256 the projection.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import torch
from augment import patch_grid, plain_views, random_views
from checkpoint import Run
from dataset import (
    STYLE_WEIGHT,
    TRAIN_STYLES,
    PictureSet,
    TextBank,
    concept_weight,
    load_bank,
    load_pictures,
    load_teacher_targets,
    load_validation,
)
from model import N_PATCHES, PROJECTION, WIDTH, build, embed_patches, initialise_vision
from optim import ADAM_RATE, MUON_RATE, build_optimisers, set_rate, update
from paths import IMAGE_RUN, PICTURE_TABLE
from torch import Generator, Tensor, nn
from torch.nn import functional
from transformers import CLIPModel


@dataclass(frozen=True)
class ImageConfig:
    """Settings of the image tower's training.

    Args:
        n_steps: steps taken.
        n_schedule: steps that the cosine and ``drop_until`` refer to; the cosine's last, all but flat part is left out.
        batch_size: pictures per step, all of different concepts.
        keep: patches seen of each picture while ``drop_until`` of the schedule lasts.
        drop_until: share of the schedule after which all patches are seen.
        scale: inverse temperature of the contrastive loss.
        teacher_weight: weight of the teacher's loss.
        warm_up: the first steps, over which the learning rate rises.
        seed: of initial weights and all sampling.
    """

    n_steps: int = 2750
    n_schedule: int = 3000
    batch_size: int = 192
    keep: int = 18
    drop_until: float = 0.75
    scale: float = 20.0
    teacher_weight: float = 2.0
    warm_up: int = 200
    seed: int = 0


def step_generator(seed: int, step: int) -> Generator:
    """Return a generator that depends on seed and step alone, so that a resumed run sees what an unbroken one would."""
    return Generator().manual_seed(seed * 1_000_003 + step)


def soft_targets(similarity: Tensor, own: Tensor) -> Tensor:
    """Return rows that put half of their mass on ``own`` and spread half over phrases of like meaning."""
    spread = (20 * similarity).softmax(1)
    return 0.5 * spread + 0.5 * functional.one_hot(own, similarity.shape[1])


def contrastive_loss(images: Tensor, bank: Tensor, own: Tensor, scale: float) -> Tensor:
    """Return the mean of picture-among-concepts and phrase-among-pictures cross-entropies.

    Args:
        images: unit length, [b, 256].
        bank: one text target per concept, unit length, [k, 256].
        own: each picture's concept, without repeats, [b].
        scale: inverse temperature.
    """
    texts = bank[own]  # [b, 256]
    among_concepts = functional.cross_entropy(scale * images @ bank.T, soft_targets(texts @ bank.T, own))
    within = torch.arange(len(own), device=own.device)
    among_pictures = functional.cross_entropy(scale * texts @ images.T, soft_targets(texts @ texts.T, within))
    return 0.5 * (among_concepts + among_pictures)


class Sampler:
    """Draws distinct concepts by weight, and one picture of each in a random style."""

    def __init__(self, data: PictureSet, styles: list[str]) -> None:
        self.weights = torch.tensor([concept_weight(c) for c in data.concepts])
        n_concepts = len(data.concepts)
        counts = torch.bincount(data.concept, minlength=n_concepts)
        self.members = torch.zeros(n_concepts, int(counts.max()), dtype=torch.long)
        self.chances = torch.zeros(n_concepts, int(counts.max()))
        filled = [0] * n_concepts
        for i, k in enumerate(data.concept.tolist()):
            self.members[k, filled[k]] = i
            self.chances[k, filled[k]] = STYLE_WEIGHT.get(styles[i], 1.0)
            filled[k] += 1

    def draw(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return ``n`` concepts and one picture of each, [n] and [n]."""
        concepts = torch.multinomial(self.weights, n, generator=generator)
        column = torch.multinomial(self.chances[concepts], 1, generator=generator)  # [n, 1]
        return concepts, self.members[concepts].gather(1, column)[:, 0]


@torch.no_grad()
def picture_features(model: CLIPModel, data: PictureSet, batch_size: int = 256) -> Tensor:
    """Return unit-length features of whole, unchanged pictures, [n, 256]."""
    device = next(model.parameters()).device
    parts = []
    for pictures in data.pictures.split(batch_size):
        pooled = model.vision_model(pixel_values=plain_views(pictures.to(device))).pooler_output
        parts.append(functional.normalize(model.visual_projection(pooled), dim=-1).cpu())
    return torch.cat(parts)


def validation_recall(model: CLIPModel, data: PictureSet, bank: TextBank) -> float:
    """Return r@1 of the validation style's pictures against the MiniLM targets of their labels."""
    found = (picture_features(model, data) @ bank.targets[bank.label].T).argmax(1)
    return (found == data.concept).float().mean().item()


def make_start(config: ImageConfig, data: PictureSet, grid: Tensor) -> tuple[CLIPModel, nn.Linear]:
    """Return the initialised model and the head that predicts the teacher's features."""
    model = build(config.seed)
    generator = step_generator(config.seed, -1)
    some = torch.randperm(len(data.row), generator=generator)[:256]
    patches, _ = random_views(
        data.pictures[some], torch.ones(256, dtype=torch.bool), N_PATCHES, grid, generator
    )
    initialise_vision(model, patches.flatten(0, 1))
    return model, nn.Linear(WIDTH, PROJECTION)


def train(config: ImageConfig, *, save_every: int = 250) -> None:
    """Train the image tower, or go on where an earlier call was cut off."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    grid = patch_grid()
    data, validation = load_pictures(TRAIN_STYLES), load_validation()
    table = json.loads(PICTURE_TABLE.read_text(encoding="utf-8"))["pictures"]
    sampler = Sampler(data, [table[i][0] for i in data.row.tolist()])
    bank, validation_bank = load_bank(data.concepts), load_bank(validation.concepts)
    teacher = load_teacher_targets(data.row, PROJECTION, step_generator(config.seed, -2)).to(device)
    may_flip = torch.tensor([c.group != "symbols" for c in data.concepts])
    model, head = make_start(config, data, grid)
    model.to(device), head.to(device)
    grid = grid.to(device)
    trained = nn.ModuleList([model.vision_model, model.visual_projection, head])
    optimisers = build_optimisers([trained], model.vision_model.encoder, ADAM_RATE, MUON_RATE)
    run = Run(IMAGE_RUN, {"model": model, "head": head}, optimisers)
    record = run.resume() or {"step": 0, "seconds": 0.0, "log": [], "config": asdict(config)}
    started, smooth = time.monotonic() - record["seconds"], None
    for step in range(record["step"], config.n_steps):
        generator = step_generator(config.seed, step)
        set_rate(optimisers, step, config.n_schedule, config.warm_up)
        concepts, index = sampler.draw(config.batch_size, generator)
        keep = config.keep if step < config.drop_until * config.n_schedule else N_PATCHES
        patches, places = random_views(
            data.pictures[index].to(device), may_flip[concepts], keep, grid, generator
        )
        use_blend = torch.rand((), generator=generator) < 0.5
        texts = bank.blend if use_blend else bank.targets[bank.sample(generator)]  # [k, 256]
        pooled = embed_patches(model, patches, places)
        images = functional.normalize(model.visual_projection(pooled), dim=-1)
        contrast = contrastive_loss(images, texts.to(device), concepts.to(device), config.scale)
        imitation = (1 - functional.cosine_similarity(head(pooled), teacher[index])).mean()
        update(optimisers, contrast + config.teacher_weight * imitation, list(trained.parameters()))
        losses = torch.stack([contrast, imitation]).detach().cpu()
        smooth = losses if smooth is None else 0.98 * smooth + 0.02 * losses
        if (step + 1) % save_every == 0 or step + 1 == config.n_steps:
            recall = validation_recall(model, validation, validation_bank)
            seconds = time.monotonic() - started
            entry = {"step": step + 1, "seconds": round(seconds), "contrast": round(smooth[0].item(), 3)}
            entry |= {"imitation": round(smooth[1].item(), 3), "validation_r1": round(recall, 4)}
            record |= {"step": step + 1, "seconds": seconds, "log": [*record["log"], entry]}
            run.save(record)
            print(json.dumps(entry), flush=True)
    run.finish(record)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=ImageConfig.n_steps)
    parser.add_argument("--batch-size", type=int, default=ImageConfig.batch_size)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(ImageConfig(n_steps=args.steps, batch_size=args.batch_size, seed=args.seed))


if __name__ == "__main__":
    main()
