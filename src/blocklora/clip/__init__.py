"""The two towers of CLIP and its relatives: loading them, preparing images and prompts, and computing features."""

from blocklora.clip.features import (
    class_features,
    image_features,
    text_embeddings,
    text_features,
    tokenize,
)
from blocklora.clip.hashes import image_tower_hash, model_hash, text_tower_hash
from blocklora.clip.load import TINY, Clip, ImageTower, load_clip, load_image_tower, read_clip_config
from blocklora.clip.preprocess import crop_size, pixels, random_crop
from blocklora.clip.prompted import prompted_image_features, token_embeddings
from blocklora.clip.relevance import patch_relevance, why_no_relevance
from blocklora.clip.towers import Engine, LeanTowers, Towers, make_towers
from blocklora.clip.views import shared_view, with_weights

__all__ = [
    "TINY",
    "Clip",
    "Engine",
    "ImageTower",
    "LeanTowers",
    "Towers",
    "class_features",
    "crop_size",
    "image_features",
    "image_tower_hash",
    "load_clip",
    "load_image_tower",
    "make_towers",
    "model_hash",
    "patch_relevance",
    "pixels",
    "prompted_image_features",
    "random_crop",
    "read_clip_config",
    "shared_view",
    "text_embeddings",
    "text_features",
    "text_tower_hash",
    "token_embeddings",
    "tokenize",
    "why_no_relevance",
    "with_weights",
]
