"""Step 8: join the two towers and write the model that the package ships, as fp16, in transformers' format.

The model is written to ``build/tiny/packed``, checked, and then swapped in as ``src/blocklora/assets/tiny``.
"""

import json
import math
import shutil
from pathlib import Path

import torch
from checkpoint import load_final
from model import CONTEXT, LOGIT_SCALE, MEAN, SIDE, STD, build
from paths import ASSETS, IMAGE_RUN, PACKED, TEXT_RUN, TOKENIZER
from tokenizer import END, START
from train_text import embed_texts
from transformers import CLIPModel, CLIPTokenizer

SHIPPED = ASSETS / "tiny"
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
}
CHECKED_PROMPTS = [
    "a photo of a cat.",
    "an icon of a bar chart.",
    'a photo of the number: "7".',
    "strawberry",
]


def combine() -> CLIPModel:
    """Return the model with the image run's image tower, the text run's text tower, and the fixed logit scale."""
    model, text = build(0), build(0)
    load_final(IMAGE_RUN, model, "model")
    load_final(TEXT_RUN, text, "model")
    model.text_model.load_state_dict(text.text_model.state_dict())
    model.text_projection.load_state_dict(text.text_projection.state_dict())
    model.logit_scale.data.fill_(math.log(LOGIT_SCALE))
    # each tower's own projection_dim is what CLIPVisionModelWithProjection reads
    model.config.text_config.projection_dim = model.config.projection_dim
    model.config.vision_config.projection_dim = model.config.projection_dim
    return model.eval()


def write(model: CLIPModel, folder: Path) -> None:
    """Write fp16 weights, configuration, tokenizer and image processor."""
    shutil.rmtree(folder, ignore_errors=True)
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n", encoding="utf-8")
    half = build(0)
    half.config = model.config
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone


def check_packed(model: CLIPModel, folder: Path) -> float:
    """Check the written folder against the model in memory.

    Returns:
        The smallest cosine between text and image features of the two.

    Raises:
        ValueError: the tokenizer and the configuration disagree, or the features do.
    """
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    packed = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    text = packed.config.text_config
    found = (tokenizer.convert_tokens_to_ids(START), tokenizer.convert_tokens_to_ids(END), len(tokenizer))
    expected = (text.bos_token_id, text.eos_token_id, text.vocab_size)
    if found != expected or tokenizer.model_max_length != CONTEXT:
        raise ValueError(f"tokenizer has start, end, size {found}; the configuration says {expected}")
    one, two = (embed_texts(m, tokenizer, CHECKED_PROMPTS) for m in (model, packed))
    pixels = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = [m.visual_projection(m.vision_model(pixels).pooler_output) for m in (model, packed)]
    images = torch.nn.functional.cosine_similarity(*pooled)
    lowest = min((one * two).sum(-1).min().item(), images.min().item())
    if lowest < 0.999:
        raise ValueError(f"fp16 and fp32 features have a cosine of only {lowest:.5f}")
    return lowest


def swap_in(folder: Path, target: Path) -> None:
    """Replace the target by a copy of the folder; the model card stays."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def main() -> None:
    """Pack, check and ship."""
    model = combine()
    write(model, PACKED)
    cosine = check_packed(model, PACKED)
    swap_in(PACKED, SHIPPED)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{n_parameters} parameters; smallest cosine of fp16 and fp32 features {cosine:.6f}")


if __name__ == "__main__":
    main()
