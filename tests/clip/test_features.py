from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from blocklora.adapter import BlockLoraConfig
from blocklora.clip import (
    class_features,
    image_features,
    load_clip,
    text_embeddings,
    text_features,
    tokenize,
)
from blocklora.clip.lean import LeanTower
from blocklora.clip.load import Clip
from blocklora.clip.prompted import (
    end_of_text,
    prompted_image_features,
    prompted_text_features,
    token_embeddings,
)
from blocklora.clip.towers import LeanTowers
from blocklora.core.errors import ConfigError

PROMPTS = ["a photo of a cat.", "x", "a photo of a very large brown dog, a type of pet."]


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(str(clip_folder))


def test_padding_changes_nothing(clip: Clip) -> None:
    tokens, cut = tokenize(PROMPTS, clip.tokenizer, clip.context_length)
    assert cut == []
    together = text_features(clip.model, tokens)
    for prompt, row in zip(PROMPTS, together, strict=True):
        ids = torch.tensor([clip.tokenizer(prompt)["input_ids"]])
        alone = text_features(clip.model, ids)[0]
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-6)
        masked = clip.model.get_text_features(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).pooler_output[0]
        torch.testing.assert_close(row, masked / masked.norm(), rtol=1e-5, atol=1e-6)


def test_long_prompts_keep_their_end_token(clip: Clip) -> None:
    long = "cat " * 50
    tokens, cut = tokenize([long, "cat"], clip.tokenizer, clip.context_length)
    assert cut == [long]
    assert tokens.shape == (2, 24)
    assert tokens[0, -1] == clip.model.config.text_config.eos_token_id
    assert torch.isfinite(text_features(clip.model, tokens)).all()


def test_no_prompts(clip: Clip) -> None:
    with pytest.raises(ConfigError, match="no prompts were given"):
        tokenize([], clip.tokenizer, 24)


def test_features_are_unit_vectors_whatever_the_batch(clip: Clip) -> None:
    tokens, _ = tokenize(PROMPTS, clip.tokenizer, clip.context_length)
    features = class_features(clip.model, tokens, batch_size=2)
    assert features.shape == (3, 16)
    assert not features.requires_grad
    torch.testing.assert_close(features, text_features(clip.model, tokens), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    images = image_features(clip.model, torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))


ADAPTERS = {
    "bare": [],
    "Block-LoRA": [BlockLoraConfig(r=4, n_blocks=2, lora_dropout=0.5, init_weights=False)],
    "LoRA": [LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False, target_modules=["q_proj", "fc1"])],
}


@pytest.fixture(params=list(ADAPTERS))
def case(random_clip: Any, request: pytest.FixtureRequest) -> Any:
    """A random CLIP of 32-bit weights, with and without an adapter."""
    case = random_clip(*ADAPTERS[request.param], dtype=torch.float32)
    case.model.eval()  # PEFT adds layers in training mode
    return case


def test_embeddings_are_the_outputs_before_they_are_normalised(case: Any) -> None:
    with torch.no_grad():
        embedded = text_embeddings(case.model, case.tokens)
        assert torch.equal(embedded, case.model.get_text_features(input_ids=case.tokens).pooler_output)
        unit = text_features(case.model, case.tokens, engine="plain")
    assert torch.equal(torch.nn.functional.normalize(embedded, dim=-1), unit)


@pytest.fixture
def lean_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The lean towers through whose blocks something goes."""
    run: list[Any] = []
    through = LeanTower._through

    def spy(tower: LeanTower, *args: Any, **more: Any) -> Tensor:
        run.append(tower)
        return through(tower, *args, **more)

    monkeypatch.setattr(LeanTower, "_through", spy)
    return run


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("engine", "lean"), [("auto", None), ("plain", False), ("lean", True)])
def test_the_engine_that_is_asked_for_runs(
    case: Any, lean_blocks: list[Any], engine: Any, lean: bool | None, grad: bool
) -> None:
    with torch.set_grad_enabled(grad):
        image = image_features(case.model, case.pixels, engine=engine)
        text = text_features(case.model, case.tokens, engine=engine)
        assert len(lean_blocks) == 2 * (not grad if lean is None else lean)
        lean_blocks.clear()
        classes = class_features(case.model, case.tokens, engine=engine)
        assert len(lean_blocks) == (lean is not False)
    assert not classes.requires_grad
    with torch.no_grad():
        wanted = case.model.get_image_features(pixel_values=case.pixels).pooler_output
    torch.testing.assert_close(image, wanted / wanted.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text, classes, rtol=1e-4, atol=1e-5)


def test_lean_is_refused_in_words_where_it_is_not_possible(random_clip: Any) -> None:
    case = random_clip(act="relu")
    for run in (
        lambda: image_features(case.model, case.pixels, engine="lean"),
        lambda: text_features(case.model, case.tokens, engine="lean"),
        lambda: class_features(case.model, case.tokens, engine="lean"),
    ):
        with pytest.raises(ConfigError, match="engine 'lean' cannot run this model: its activation is relu"):
            run()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("engine", ["plain", "lean"])
def test_class_features_leave_the_callers_random_state_alone(case: Any, engine: Any, training: bool) -> None:
    case.model.train(training)
    before = torch.get_rng_state()
    features = class_features(case.model, case.tokens, engine=engine)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(class_features(case.model, case.tokens, engine=engine), features)


FORWARDS: dict[str, Callable[[Any], Tensor]] = {
    "lean images": lambda case: image_features(case.model, case.pixels, engine="lean"),
    "plain images": lambda case: image_features(case.model, case.pixels, engine="plain"),
    "lean texts": lambda case: text_features(case.model, case.tokens, engine="lean"),
    "plain texts": lambda case: text_features(case.model, case.tokens, engine="plain"),
    "lean classes": lambda case: class_features(case.model, case.tokens, 2, engine="lean"),
    "plain classes": lambda case: class_features(case.model, case.tokens, 2, engine="plain"),
    "embeddings": lambda case: text_embeddings(case.model, case.tokens),
    "prompted images": lambda case: prompted_image_features(case.model, case.pixels, torch.ones(2, 3, 48)),
    "prompted texts": lambda case: prompted_text_features(
        case.model, token_embeddings(case.model, case.tokens), end_of_text(case.model, case.tokens)
    ),
}


def test_eight_threads_get_the_bits_of_one(case: Any) -> None:
    def run(name: str) -> Tensor:
        with torch.no_grad():  # a thread has its own gradient mode
            return FORWARDS[name](case)

    alone = {name: run(name) for name in FORWARDS}
    names = list(FORWARDS) * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, names))
    assert [
        name for name, one in zip(names, together, strict=True) if not torch.equal(one, alone[name])
    ] == []


def test_eight_threads_get_the_gradients_of_one(case: Any) -> None:
    """Backward writes into nothing that the threads share but the gradients themselves, which it returns here."""
    trained = list(case.trained().values())
    if not trained:
        pytest.skip("nothing is trained")
    case.model.train()
    towers = LeanTowers(case.model)
    ((_, one_pass),) = towers.passes(case.tokens)

    def run(seed: int) -> list[Tensor]:
        loss = towers.images(case.pixels, seed=seed).sum() + towers.texts(one_pass, seed=seed).sum()
        return list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))

    alone = [run(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(pool.map(run, range(8)), alone, strict=True):
            assert all(map(torch.equal, one, other))
