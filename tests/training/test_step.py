"""One step under every plan: the same loss, the same gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor

from blocklora.adapter import BlockLoraConfig
from blocklora.clip.towers import LeanTowers, PlainTowers
from blocklora.training.step import ClassFeatures, Plan, gradient

KEEPS = ("all", "no-mlp", "inputs")
PLANS = [
    Plan(),
    Plan(micro_batch=2),
    Plan(micro_batch=1, chunk=1),
    Plan(chunk=2),
    Plan(chunk=5, micro_batch=3),
    Plan(chunk=50, micro_batch=50),
    Plan("inputs", "no-mlp", 2, 4),
    Plan("no-mlp", "inputs", 4, 3),
]


def block_lora(dropout: float = 0.0, **more: Any) -> BlockLoraConfig:
    targets = {"target_modules": ["q_proj", "v_proj", "out_proj", "fc2"]} | more
    return BlockLoraConfig(r=4, n_blocks=2, lora_dropout=dropout, init_weights=False, **targets)


def lora(dropout: float = 0.0, **more: Any) -> LoraConfig:
    targets = {"target_modules": ["q_proj", "k_proj", "fc1"]} | more
    return LoraConfig(r=3, lora_dropout=dropout, init_lora_weights=False, **targets)


def run(
    case: Any, plan: Plan, *, towers: Any = None, inputs: Any = None, step: int = 5, seed: int = 2
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss and gradients of a step."""
    case.model.train()
    towers = towers or LeanTowers(case.model)
    trained = any("text_model" in name for name in case.trained())
    text = ClassFeatures(towers, case.tokens, trained=trained, plan=plan)
    inputs = case.pixels if inputs is None else inputs
    scale = case.model.logit_scale.detach().exp()
    loss = gradient(
        towers, inputs, case.labels, text, scale, plan, torch.autograd.backward, seed=seed, step=step
    )
    case.model.eval()
    assert not loss.requires_grad
    return loss, case.gradients()


def assert_same(one: Any, other: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=tolerance, atol=0)
    assert one[1].keys() == other[1].keys()
    for name, found in one[1].items():
        reference = other[1][name]
        assert (found is None) == (reference is None)
        if reference is not None:
            assert (found - reference).abs().max() <= tolerance * reference.abs().max(), name


@pytest.mark.parametrize("config", [block_lora, lora])
@pytest.mark.parametrize("towers", ["(vision|text)", "vision", "text"])
def test_every_plan_gives_the_gradient_of_the_ordinary_forward(
    random_clip: Any, config: Any, towers: str
) -> None:
    leaves = "|".join(config().target_modules)
    case = random_clip(config(target_modules=rf".*{towers}_model.*({leaves})"))
    logits, gradients = case.reference()
    reference = F.cross_entropy(logits, case.labels), gradients
    for plan in PLANS:
        assert_same(run(case, plan), reference)


def test_the_ordinary_engine_too(random_clip: Any) -> None:
    case = random_clip(block_lora())
    logits, gradients = case.reference()
    for plan in PLANS[:5]:
        towers = PlainTowers(case.model)
        assert_same(run(case, plan, towers=towers), (F.cross_entropy(logits, case.labels), gradients))


def test_images_that_come_as_features(random_clip: Any) -> None:
    case = random_clip(block_lora(target_modules=r".*text_model.*q_proj"))
    logits, gradients = case.reference()
    with torch.no_grad():
        features = LeanTowers(case.model).images(case.pixels)
    for plan in PLANS[:3]:
        found = run(case, plan, inputs=features)
        assert_same(found, (F.cross_entropy(logits, case.labels), gradients))


@pytest.mark.parametrize("config", [block_lora, lora])
@pytest.mark.parametrize("share", [True, False])
def test_with_dropout_every_level_has_the_same_masks(random_clip: Any, config: Any, share: bool) -> None:
    case = random_clip(config(0.4))
    towers = LeanTowers(case.model, prefix_sharing=share)
    for cut in ({}, {"micro_batch": 2, "chunk": 2}):
        first = run(case, Plan(**cut), towers=towers)
        for images, texts in (("no-mlp", "all"), ("all", "no-mlp"), ("inputs", "inputs")):
            assert_same(run(case, Plan(images, texts, **cut), towers=towers), first)
        assert torch.equal(run(case, Plan(**cut), towers=towers)[0], first[0])  # to the bit
        assert not torch.equal(run(case, Plan(**cut), towers=towers, step=6)[0], first[0])
        assert not torch.equal(run(case, Plan(**cut), towers=towers, seed=3)[0], first[0])
    case.model.eval()


@pytest.mark.parametrize("engine", [LeanTowers, PlainTowers])
def test_two_passes_with_dropout_are_the_gradient_of_one_graph(random_clip: Any, engine: Any) -> None:
    """Keep the graph of every pass, masks as in the step: the gradient of that loss is the step's."""
    case = random_clip(block_lora(0.4))
    towers = engine(case.model)
    plan, seeds = Plan(chunk=2, micro_batch=3), {}

    class Spy:
        model = case.model
        passes = staticmethod(towers.passes)

        def images(self, pixels: Tensor, *, seed: int, keep: Any, part: None) -> Tensor:
            seeds[len(pixels)] = seed
            return towers.images(pixels, seed=seed, keep=keep)

        def texts(self, one_pass: Any, *, seed: int, keep: Any) -> Tensor:
            seeds.setdefault(id(one_pass), set()).add(seed)
            return towers.texts(one_pass, seed=seed, keep=keep)

    found = run(case, plan, towers=Spy())
    case.model.train()
    passes = towers.passes(case.tokens, 2)
    first = case.pixels[:3], case.pixels[3:]
    images = torch.cat([towers.images(part, seed=seeds[len(part)]) for part in first])
    text_seeds = [seed for key, seed in seeds.items() if isinstance(seed, set)]
    assert [len(some) for some in text_seeds] == [1, 1, 1]  # forward and backward met the same masks
    assert len(set.union(*text_seeds, {seeds[3], seeds[2]})) == 5  # every pass has masks of its own
    texts = torch.empty(len(case.tokens), 24, dtype=torch.float64)
    for (rows, one_pass), (seed,) in zip(passes, text_seeds, strict=True):
        texts[rows] = towers.texts(one_pass, seed=seed)
    loss = F.cross_entropy(case.model.logit_scale.exp() * images @ texts.T, case.labels)
    loss.backward()
    case.model.eval()
    assert_same(found, (loss.detach(), case.gradients()))


def test_a_text_tower_that_is_not_trained_runs_once(random_clip: Any) -> None:
    case = random_clip(block_lora(target_modules=r".*vision_model.*q_proj"))
    towers = LeanTowers(case.model)
    calls: list[int] = []

    class Counting:
        passes = staticmethod(towers.passes)
        images = staticmethod(towers.images)

        def texts(self, one_pass: Any, **more: Any) -> Tensor:
            calls.append(len(one_pass.ends))
            found = towers.texts(one_pass, **more)
            assert not found.requires_grad
            return found

    text = ClassFeatures(Counting(), case.tokens, trained=False, plan=Plan(chunk=4))
    assert calls == [4, 2]
    for step in range(3):
        features, back = text.at(0, step)
        back(torch.ones_like(features))
        assert not features.requires_grad
    assert calls == [4, 2]
    wanted = F.normalize(case.model.get_text_features(input_ids=case.tokens).pooler_output, dim=-1)
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-13)


def test_a_scaled_loss_scales_the_whole_gradient(random_clip: Any) -> None:
    """What fp16's loss scaling needs: the factor reaches the text tower too, in one pass and in two."""
    case = random_clip(block_lora())
    for plan in (Plan(), Plan(chunk=2)):
        loss, plain = run(case, plan)
        towers = LeanTowers(case.model)
        text = ClassFeatures(towers, case.tokens, trained=True, plan=plan)
        again = gradient(
            towers, case.pixels, case.labels, text, case.model.logit_scale.exp(), plan,
            lambda value: (1024 * value).backward(), seed=2, step=5,
        )  # fmt: skip
        scaled = {name: value / 1024 for name, value in case.gradients().items()}
        assert_same((again, scaled), (loss, plain))


def test_a_plan_in_words() -> None:
    assert str(Plan()) == "each block keeps everything"
    assert str(Plan("inputs", "no-mlp", 8)) == (
        "images: each block is recomputed, texts: each block recomputes its MLP, images in micro-batches of 8"
    )
    assert str(Plan(chunk=250)) == "each block keeps everything, classes in two passes, 250 at a time"
