"""The two towers of CLIP and its relatives: loading them, preparing pictures and prompts, and computing features."""

from blocklora.clip.features import tokenize
from blocklora.clip.load import TINY, Clip, ImageTower, load_clip, load_image_tower, read_clip_config
from blocklora.clip.preprocess import crop_size, pixels, random_crop
from blocklora.clip.towers import (
    Engine,
    Towers,
    class_features,
    image_features,
    make_towers,
    text_features,
)

__all__ = [
    "TINY",
    "Clip",
    "Engine",
    "ImageTower",
    "Towers",
    "class_features",
    "crop_size",
    "image_features",
    "load_clip",
    "load_image_tower",
    "make_towers",
    "pixels",
    "random_crop",
    "read_clip_config",
    "text_features",
    "tokenize",
]
