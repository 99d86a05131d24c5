"""Class prompts with learned vectors: the lean text tower gives what transformers' own layers give."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from blocklora.classifier import class_prompts
from blocklora.classifier.class_prompts import ClassPrompts, cut_notes, prompt_tokens
from blocklora.clip import Clip
from blocklora.clip.prompted import end_of_text, prompted_text_features, token_embeddings

NAMES = ("red", "a large green disc", "blue", "green disc")


def plainly(model: torch.nn.Module, tokens: Tensor, context: Tensor, deep: Tensor | None) -> Tensor:
    """Every class for itself, through transformers' own layers."""
    embedded = token_embeddings(model, tokens)
    rows = [torch.cat([row[:1], context, row[1 + len(context) :]]) for row in embedded]
    return prompted_text_features(model, torch.stack(rows), end_of_text(model, tokens), deep)


@pytest.mark.parametrize("words", ["a photo of a", ""])
@pytest.mark.parametrize(("n_context", "layers"), [(2, 0), (2, 1), (4, 1)])
@pytest.mark.parametrize("names", [NAMES, NAMES[:2], ("cat", "cat")])
def test_lean_features_and_gradients_are_transformers(
    clip: Clip, words: str, n_context: int, layers: int, names: Sequence[str]
) -> None:
    model = clip.model.double().requires_grad_(False)
    tokens, _ = prompt_tokens(clip, names, words, n_context)
    generator = torch.Generator().manual_seed(0)
    learned = [torch.randn(n_context, 32, generator=generator).double()]
    learned += [torch.randn(layers, n_context, 32, generator=generator).double()] if layers else []
    weights = torch.randn(len(names), 16, generator=generator).double()
    found = []
    for way in (
        lambda *given: ClassPrompts(model, tokens).features(*given),
        lambda *given: plainly(model, tokens, *given),
    ):
        vectors = [value.clone().requires_grad_() for value in learned]
        features = way(*vectors, *[None] * (2 - len(vectors)))
        (features * weights).sum().backward()
        found.append([features.detach(), *[vector.grad for vector in vectors]])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_vectors_are_computed_once_for_all_classes(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, _ = prompt_tokens(clip, NAMES, "", 4)
    plan = ClassPrompts(clip.model, tokens)._plan
    assert plan is not None
    assert plan.opening == 5
    assert sum(plan.sizes) < len(NAMES) * int((end_of_text(clip.model, tokens) + 1).min())
    monkeypatch.setattr(class_prompts, "why_not_lean", lambda _: "a reason")
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    expected = plainly(clip.model, tokens, context, None)
    torch.testing.assert_close(ClassPrompts(clip.model, tokens).features(context), expected)


def test_one_class_has_no_opening_to_share(clip: Clip) -> None:
    tokens, _ = prompt_tokens(clip, NAMES[:1], "", 3)
    context = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    found = ClassPrompts(clip.model, tokens).features(context)
    torch.testing.assert_close(found, plainly(clip.model, tokens, context, None))


def test_names_that_do_not_fit_are_told(clip: Clip) -> None:
    long = "a very " + "large " * 20 + "disc"
    tokens, cut = prompt_tokens(clip, ["red", long], "", 4)
    assert cut == (long,)
    assert tokens.shape == (2, clip.context_length)
    assert end_of_text(clip.model, tokens).tolist() == [
        tokens[0].tolist().index(4029),
        clip.context_length - 1,
    ]
    assert prompt_tokens(clip, NAMES, "", 4)[1] == ()
    (note,) = cut_notes(cut, clip.context_length)
    assert f"1 class prompts, e.g. that of '{long}', are longer than the 24 tokens" in note
    assert cut_notes((), clip.context_length) == ()
