"""Other classes for a fitted classifier, known by their names alone.

Axes: N = classes, D = the width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklora.classifier.changes import TextChange
from blocklora.classifier.class_prompts import ClassPrompts, prompt_tokens
from blocklora.classifier.classifier import Classifier
from blocklora.classifier.heads import CONDITIONAL, Head
from blocklora.clip import Clip, Engine, class_features, tokenize, with_weights
from blocklora.core.errors import ConfigError
from blocklora.core.ranks import ALONE, Ranks
from blocklora.data import prompts

__all__ = ["mean_features", "one_class_more", "other_classes", "shared_class_features", "template_features"]


@torch.no_grad()
def other_classes(
    head: Head,
    text: TextChange | None,
    model: Any,
    clip: Clip,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    engine: Engine = "auto",
) -> Head:
    """Return the head of a fitted classifier for other classes.

    Args:
        head: The classifier's own.
        text: What its method learned about names; None is nothing.
        model: A ``CLIPModel`` with both towers, and with the classifier's adapter in its layers if it has one.
        clip: The tokenizer and how much the text tower reads.
        class_names: N names.
        templates: Sentences with one ``{}``; the mean of their class features predicts. Where the words before the
            name are learned they take their place.
        engine: Which engine computes the features of templates.

    Raises:
        ConfigError: The method learned the classes that it saw and knows no others.
    """
    if text is None or (head.kind != CONDITIONAL and "class_features" not in head.tensors):
        raise ConfigError(
            "this method learns the classes that it saw and knows no others; fit it to the new ones."
        )
    device = model.logit_scale.device
    n_context = len(text.context) if text.context is not None else 0
    tokens = prompt_tokens(clip, class_names, text.words, n_context)[0].to(device)
    if head.kind == CONDITIONAL:
        return replace(head, tensors={**head.tensors, "tokens": tokens.cpu()}, model=model)
    if text.weights:
        model = with_weights(model, {name: value.to(device) for name, value in text.weights.items()})
    if text.context is not None:
        deep = None if text.deep is None else text.deep.to(device)
        features = ClassPrompts(model, tokens).features(text.context.to(device), deep).float().cpu()
    else:
        features = template_features(model, clip, class_names, templates, engine=engine)
    return replace(head, tensors={**head.tensors, "class_features": features})


@torch.no_grad()
def one_class_more(classifier: Classifier, clip: Clip, name: str, templates: Sequence[str]) -> Classifier:
    """Return a classifier that knows one class more by its name; what it says of the others' logits stays.

    Args:
        classifier: On both towers.
        clip: The base model, both towers of it.
        name: Of the new class, which is the last one.
        templates: Sentences with one ``{}`` that the run's class names stand in; the first is written down.

    Raises:
        ConfigError: The method learned the classes that it saw and knows no others.
    """
    head, names = classifier.head, (*classifier.class_names, name)
    model = clip.model if classifier.adapter is None else classifier.adapter.get_base_model()
    wanted = names if head.kind == CONDITIONAL else (name,)
    found = other_classes(head, classifier.text, model, clip, wanted, templates, engine=classifier.engine)
    if head.kind != CONDITIONAL:
        both = torch.cat([head.tensors["class_features"], found.tensors["class_features"]])  # (N + 1, D)
        found = replace(head, tensors={**head.tensors, "class_features": both})
    plain = template_features(clip.model, clip, [name], templates, engine=classifier.engine)
    prompt = prompts([name], templates[0])[0]
    zero_shot = torch.cat([classifier.zero_shot_features, plain])
    return classifier.of_other_classes(names, (*classifier.prompts, prompt), found, zero_shot)


def template_features(
    model: Any,
    clip: Clip,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    engine: Engine = "auto",
) -> Tensor:
    """Return unit class features (N, D), on the CPU: the mean over templates, see ``mean_features``.

    Args:
        model: A model of two towers, with or without an adapter in its layers.
        clip: The tokenizer and how much the text tower reads.
        class_names: N names.
        templates: Sentences with one ``{}``.
        engine: Which engine computes them.
    """
    sentences = [prompts(class_names, template) for template in templates]
    tokens = [tokenize(rows, clip.tokenizer, clip.context_length)[0] for rows in sentences]
    return mean_features(model, tokens, engine=engine)


def shared_class_features(
    model: Any, tokens: Tensor, ranks: Ranks = ALONE, *, engine: Engine = "auto"
) -> Tensor:
    """Return the unit text features of prompts, on the CPU; several ranks share them, and each gets all.

    Args:
        model: A model of two towers, with or without an adapter in its layers.
        tokens: Token ids (N, L).
        ranks: The processes.
        engine: Which engine computes them.

    Returns:
        Unit features (N, D).
    """
    first, last = ranks.share(len(tokens))
    own = class_features(model, tokens[first:last], engine=engine) if first < last else torch.empty(0, 0)
    return ranks.gather(own)


def mean_features(
    model: Any, tokens: Sequence[Tensor], *, engine: Engine = "auto", ranks: Ranks = ALONE
) -> Tensor:
    """Average the unit text features of a class over templates, and make the mean a unit vector again.

    As openai/CLIP ``notebooks/Prompt_Engineering_for_ImageNet.ipynb`` does.

    Args:
        model: A model of two towers, with or without an adapter in its layers.
        tokens: Token ids of every template (N, L).
        engine: Which engine computes them.
        ranks: The processes that share the work.

    Returns:
        Unit features (N, D) on the CPU.
    """
    each = [shared_class_features(model, rows, ranks, engine=engine) for rows in tokens]  # each (N, D)
    return F.normalize(torch.stack(each).mean(dim=0), dim=-1) if len(each) > 1 else each[0]
