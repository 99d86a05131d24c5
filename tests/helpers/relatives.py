"""Very small random models of every family but CLIP's own, in the hub's format, each with a tokenizer of letters."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    XLMRobertaTokenizer,
)

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {"image_size": 32, "patch_size": 8}
CENTRE = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
GREY = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SIGNS = [*string.ascii_letters, *string.digits, ".", ",", "红", "方"]


def write_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def write_siglip(folder: Path) -> None:
    """SigLIP: a sentencepiece tokenizer whose padding is its end token; configs that say nothing of either."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(
            [string.ascii_lowercase, "a photo of a red square and a green disc, a blue cross"]
        ),
        model_writer=model,
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    write_json(folder / "tokenizer_config.json", tokenizer_class="SiglipTokenizer", model_max_length=64)
    write_json(
        folder / "preprocessor_config.json", image_processor_type="SiglipImageProcessor", **SQUARE, **GREY
    )
    SiglipModel(
        SiglipConfig(text_config=TOWER | {"vocab_size": 40}, vision_config=TOWER | IMAGES)
    ).save_pretrained(folder)


def write_gemma_tokenizer(folder: Path) -> None:
    """Gemma's tokenizer as SigLIP 2 uses it: no start token, an end token, padding of its own."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab = {token: index for index, token in enumerate([*special, "▁", *SIGNS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    added = {"add_bos_token": False, "add_eos_token": True}
    write_json(folder / "tokenizer_config.json", tokenizer_class="GemmaTokenizer", **named, **added)


def write_siglip2_fixed(folder: Path) -> None:
    """SigLIP 2 of one fixed size: SigLIP's classes with Gemma's tokenizer."""
    write_gemma_tokenizer(folder)
    write_json(
        folder / "preprocessor_config.json", image_processor_type="SiglipImageProcessor", **SQUARE, **GREY
    )
    SiglipModel(
        SiglipConfig(text_config=TOWER | {"vocab_size": 80}, vision_config=TOWER | IMAGES)
    ).save_pretrained(folder)


def write_siglip2(folder: Path) -> None:
    """SigLIP 2 NaFlex: patches of images of any ratio."""
    write_gemma_tokenizer(folder)
    write_json(
        folder / "preprocessor_config.json",
        image_processor_type="Siglip2ImageProcessor",
        patch_size=8,
        max_num_patches=17,
        **GREY,
    )
    vision = TOWER | {"patch_size": 8, "num_patches": 9}
    Siglip2Model(Siglip2Config(text_config=TOWER | {"vocab_size": 80}, vision_config=vision)).save_pretrained(
        folder
    )


def write_chinese_clip(folder: Path) -> None:
    """ChineseCLIP: BERT reads the prompts."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SIGNS, *(f"##{sign}" for sign in SIGNS)]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    write_json(
        folder / "preprocessor_config.json",
        image_processor_type="ChineseCLIPImageProcessor",
        do_center_crop=False,
        **SQUARE,
    )
    text = TOWER | {"vocab_size": len(words), "max_position_embeddings": 52}
    ChineseCLIPModel(
        ChineseCLIPConfig(text_config=text, vision_config=TOWER | IMAGES, projection_dim=16)
    ).save_pretrained(folder)


def write_metaclip_2(folder: Path) -> None:
    """MetaCLIP 2: XLM-V's tokenizer, whose end token is 2."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(token, 0.0) for token in special] + [(sign, -2.0) for sign in ["▁", *SIGNS]] + [("<mask>", 0.0)]
    XLMRobertaTokenizer(vocab=vocab).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", image_processor_type="CLIPImageProcessor", **CENTRE)
    text = TOWER | {"vocab_size": len(vocab), "max_position_embeddings": 77, "projection_dim": 16}
    text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    vision = TOWER | IMAGES | {"projection_dim": 16}
    MetaClip2Model(
        MetaClip2Config(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "siglip": write_siglip,
    "siglip2-fixed": write_siglip2_fixed,
    "siglip2": write_siglip2,
    "chinese_clip": write_chinese_clip,
    "metaclip_2": write_metaclip_2,
}


def write_relative(folder: Path, name: str) -> Path:
    """Write a random model of a named family."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WRITERS[name](folder)
    return folder
