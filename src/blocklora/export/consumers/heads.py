"""From image features to probabilities, in numpy.

M = images, N = classes, D = width of a feature, K = keys of a cache, H = hidden units.
"""

import numpy as np


def cosine(features, class_features, scale):
    """Return CLIP's own logits (M, N)."""
    return scale * features @ class_features.T


def linear(features, weight, bias):
    """Return the logits (M, N) of a linear layer."""
    return features @ weight.T + bias


def cache(features, class_features, keys, values, scale, alpha, beta):
    """Return CLIP's logits (M, N), and what a cache of labelled images adds: keys (K, D), values (K, N)."""
    return cosine(features, class_features, scale) + alpha * np.exp(beta * (features @ keys.T - 1)) @ values


def bottleneck(features, class_features, down, up, scale, ratio):
    """Return the logits (M, N) of features that go through a bottleneck: down (H, D), up (D, H)."""
    hidden = np.maximum(np.maximum(features @ down.T, 0) @ up.T, 0)
    mixed = ratio * hidden + (1 - ratio) * features
    return cosine(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), class_features, scale)


HEADS = {"cosine": cosine, "linear": linear, "cache": cache, "bottleneck": bottleneck}


def probabilities(features, facts, tensors, base_features=None):
    """Return the probabilities (M, N) of unit features (M, D).

    Args:
        features: (M, D).
        facts: What export.json holds.
        tensors: What head.npz holds.
        base_features: Those of the base model (M, D), for a mixture that reads them.
    """
    if facts["head"]["kind"] != "mixture":
        return softmax(logits_of(features, facts["head"], tensors) / facts["temperature"])
    mixed = 0
    for place, member in enumerate(facts["head"]["members"]):
        own = {name[2:]: value for name, value in tensors.items() if name.startswith(f"{place}/")}
        seen = features if base_features is None or not member["base"] else base_features
        mixed = mixed + member["weight"] * softmax(logits_of(seen, member, own) / member["temperature"])
    return softmax(np.log(mixed) / facts["temperature"])


def logits_of(features, head, tensors):
    """Return what one head says (M, N)."""
    return HEADS[head["kind"]](np.float64(features), **tensors, **head["numbers"])


def softmax(logits):
    """Return shares (M, N) that sum to one."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
