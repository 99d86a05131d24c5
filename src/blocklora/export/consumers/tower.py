"""CLIP's image tower in numpy (Dosovitskiy et al. 2021; Radford et al. 2021).

B = images, S = side of an image, P = side of a patch, T = class token and patches, W = width, H = heads, V = W / H,
D = width of a feature, J = layers with learned vectors.
"""

import math

import numpy as np


def quick_gelu(x):
    """Return x sigmoid(1.702 x)."""
    return x / (1 + np.exp(-1.702 * x))


def gelu(x):
    """Return x times the normal distribution's share below x."""
    return x * (0.5 * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2))))


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


def image_features(pixel_values, weights, settings):
    """Return unit features (B, D) of pixel values (B, 3, S, S).

    Args:
        pixel_values: (B, 3, S, S).
        weights: What tower.npz holds.
        settings: "tower" of export.json.
    """

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + settings["eps"])
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x, name):  # (B, T, W)
        q, k, v = (linear(x, f"{name}.{part}_proj").reshape(*x.shape[:2], settings["heads"], -1)
                   .transpose(0, 2, 1, 3) for part in "qkv")  # (B, H, T, V)  # fmt: skip
        scores = q @ k.transpose(0, 1, 3, 2) / np.float32(math.sqrt(q.shape[-1]))  # (B, H, T, T)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = shares / shares.sum(axis=-1, keepdims=True) @ v  # (B, H, T, V)
        return linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), f"{name}.out_proj")

    x = embed(pixel_values, weights)
    prompts = weights.get("prompts", ())  # (J, vectors a layer, W)
    if len(prompts):
        x = np.concatenate([x, np.broadcast_to(prompts[0], (len(x), *prompts[0].shape))], axis=1)
    x = layer_norm(x, "pre_layrnorm")
    for index in range(settings["layers"]):
        if 1 <= index < len(prompts):
            x[:, -prompts.shape[1] :] = prompts[index]
        name = f"encoder.layers.{index}"
        x = x + attention(layer_norm(x, f"{name}.layer_norm1"), f"{name}.self_attn")
        hidden = ACTIVATIONS[settings["activation"]](
            linear(layer_norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        )
        x = x + linear(hidden, f"{name}.mlp.fc2")
    features = layer_norm(x[:, 0], "post_layernorm") @ weights["visual_projection.weight"].T  # (B, D)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def embed(pixel_values, weights):
    """Return class token and patches with their places (B, T, W)."""
    kernel = weights["embeddings.patch_embedding.weight"]  # (W, 3, P, P)
    b, (width, c, p, _), grid = len(pixel_values), kernel.shape, pixel_values.shape[-1] // kernel.shape[-1]
    patches = pixel_values.reshape(b, c, grid, p, grid, p).transpose(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(b, grid * grid, c * p * p) @ kernel.reshape(width, -1).T
    first = np.broadcast_to(weights["embeddings.class_embedding"], (b, 1, width))
    return np.concatenate([first, patches], axis=1) + weights["embeddings.position_embedding.weight"]
