"""What tests share: a very small random CLIP in transformers' format, and a folder of photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import mini_trees
import pytest
import torch
from PIL import Image, ImageDraw
from random_clip import RandomClip
from transformers import CLIPConfig, CLIPModel

from blocklora.clip import load
from blocklora.methods import METHODS

_TINY = Path(load.__file__).parents[1] / "assets" / "tiny"
COLOURS = {"red_square": "red", "green disc": "green", "blue-cross": "blue"}


def write_clip(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write a random CLIP: 2 + 2 layers of width 32, images of 32 x 32, the bundled tokenizer."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tower | {
        "vocab_size": 4030,
        "max_position_embeddings": 24,
        "bos_token_id": 4028,
        "eos_token_id": 4029,
    }
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 4029},
        vision_config=tower | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).to(dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(_TINY / name, folder / name)
    processor = json.loads((_TINY / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def write_photos(folder: Path, n: int = 12) -> Path:
    """Write class folders of n images each: a red square, a green disc and a blue cross, here and there."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(n):
            image = Image.new("RGB", (40, 48), (200 + index, 220, 240))
            draw = ImageDraw.Draw(image)
            left, top = 4 + index % 5, 6 + index % 7
            shape = {"red": draw.rectangle, "green": draw.ellipse, "blue": draw.line}[colour]
            shape((left, top, left + 20, top + 24), fill=colour)
            image.save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of files away from the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_methods() -> Iterator[None]:
    """Take methods away again that a test's grid or example has added."""
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP on disk; do not write into it."""
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of twelve images; do not write into it."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All fifteen data sets in miniature, in CoOp's folders; do not write into it."""
    return mini_trees.write_all(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="session")
def mini_clip_lora_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in CLIP-LoRA's folders."""
    return mini_trees.write_all(tmp_path_factory.mktemp("mini-clip-lora"), mini_trees.CLIP_LORA)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """The function that writes a random CLIP, for tests that spoil it."""
    return write_clip


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., Path]:
    """The function that writes a photo folder, for tests that change it."""
    return write_photos


@pytest.fixture(scope="session")
def random_clip() -> type[RandomClip]:
    """The class of very small random CLIPs with adapters."""
    return RandomClip
