"""Open images as blocklora does, make pixel values of them, and print answers; needs numpy and pillow alone."""

import json

import numpy as np
from PIL import Image, ImageOps


def answer(paths, facts, classify):
    """Print one JSON line an image: its class, or why it cannot be read; return the exit code, 1 after an error.

    Args:
        paths: Of the images.
        facts: What export.json holds.
        classify: Returns the probabilities (N,) of an upright RGB image.
    """
    failed = False
    for path in paths:
        line = {"image": path}
        try:
            image = open_rgb(path, facts["preprocess"]["side"])
        except Exception as error:  # Pillow has one for each way in which a file is broken
            failed, line["error"] = True, str(error) or type(error).__name__
        else:
            found = classify(image)
            best = int(found.argmax())
            line |= {"label": facts["labels"][best], "probability": float(found[best])}
        print(json.dumps(line), flush=True)
    return int(failed)


def open_rgb(path, side):
    """Return upright RGB, transparent pixels on white; a big JPEG is decoded small, to no less than twice ``side``."""
    image = Image.open(path)
    image.draft(None, (2 * side, 2 * side))  # does nothing but for JPEG
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block counts as none
        pass
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(bytes_of_grey(np.asarray(image), image.mode == "F")).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def bytes_of_grey(values, floats):
    """Scale grey of more than 8 bits to 0..255, from the smallest usual range that holds all values."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = grey.min(), grey.max()
    for top in (1.0, 255.0, 65535.0) if floats else (65535.0,):
        if low >= 0 and high <= top:
            low, high = 0.0, top
            break
    return np.rint((grey - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def to_pixels(image, how):
    """Return the pixel values (1, 3, S, S) of an RGB image; ``how`` is "preprocess" of export.json."""
    side, resample = how["side"], Image.Resampling[how["resample"].upper()]
    if how["resize"] == "square":
        image = image.resize((side, side), resample)
    else:
        width, height = image.size
        short = min(width, height)
        x, y = (max(0, length - how["longest"] * short) // 2 for length in (width, height))
        width, height = width - 2 * x, height - 2 * y
        image = image.crop((x, y, x + width, y + height))
        width, height = (side * length // short for length in (width, height))
        image = image.resize((width, height), resample)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    rgb = (np.asarray(image) * how["scale"] - how["mean"]) / how["std"]
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], dtype=np.float32)
