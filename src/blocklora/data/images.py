"""Open one image: any common file, as upright RGB, or an error that names the file.

Axis letters: H height, W width. Nothing of Pillow's global state is changed, and no warning filter is touched
(filters are shared by all threads): formats are tried here instead of by ``PIL.Image.open``, which warns
about big images before a caller can decide.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from blocklora.core.errors import ConfigError, ImageError
from blocklora.core.files import user_path
from blocklora.core.words import printable
from blocklora.data.types import Source

try:  # Pillow 11.3 and later
    from PIL import AvifImagePlugin
except ImportError:  # pragma: no cover
    _HAS_AVIF = False
else:
    _HAS_AVIF = bool(AvifImagePlugin.SUPPORTED)

__all__ = [
    "DECODING",
    "IMAGE_ENDINGS",
    "LONGEST",
    "cut_long_side",
    "open_for_model",
    "open_image",
    "size_in_header",
    "why_missing",
]

DECODING = "JPEGs at no less than twice the model's side, unless they are cropped at random"
"""How ``open_for_model`` decodes, in words: results depend on it, so ``metrics.json`` says it."""

LONGEST = 16  # of long to short side, above which the long side is cut

IMAGE_ENDINGS: frozenset[str] = frozenset(
    ".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split() + [".avif"] * _HAS_AVIF
)
"""File endings, in lower case, that count as images when a folder is read."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """JPEG, and of a file of several images (MPO) the first; does not parse the EXIF block on opening."""

    def _read_dpi_from_exif(self) -> None:
        pass  # Pillow looks for a resolution here, and warns where the block is broken


_READERS: list[type[ImageFile.ImageFile]] = [
    _Jpeg,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
    PpmImagePlugin.PpmImageFile,
]
if _HAS_AVIF:
    _READERS.append(AvifImagePlugin.AvifImageFile)
_FORMATS = ", ".join(str(reader.format) for reader in _READERS)


def open_image(source: Source | str, *, min_side: int | None = None, name: str | None = None) -> Image.Image:
    """Read one image as upright RGB.

    The EXIF orientation is applied. Transparent pixels are laid on white. Of an animation or a multi-page
    file the first image is taken. 16-bit grey is scaled from 0..65535 to 0..255; wider integer and float
    grey by the smallest of the usual ranges (0..1 and 0..255 for floats, 0..65535) that holds all values,
    else from its own minimum and maximum.

    Args:
        source: A file, the bytes of one, or an image in memory (which is not changed).
        min_side: Size in pixels, 1 or more, that the shorter side must keep. A big JPEG is then decoded
            straight to a half, a quarter or an eighth, many times faster. Other formats come in full size.
        name: What errors call the image; by default the path.

    Returns:
        A new image of mode "RGB".

    Raises:
        ImageError: If the file is missing, closed to the reader, not an image, damaged, or too big to be
            meant.
        ConfigError: If ``min_side`` is below 1.
    """
    if min_side is not None and min_side < 1:
        raise ConfigError(f"min_side is {min_side}: give a number of pixels, 1 or more")
    if isinstance(source, Image.Image):
        return _finish(source, name or getattr(source, "filename", "") or "image in memory")
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), len(source), min_side, name or "image in memory")
    path = user_path(source) if isinstance(source, str) else source
    name = name or printable(str(source))
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a plain file"
            raise ImageError(f"{name}: this is {kind}: give the path of an image file")
        with open(path, "rb") as stream:
            return _decode(stream, status.st_size, min_side, name)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: {why_missing(path)}: check the path") from None
    except PermissionError:
        raise ImageError(f"{name}: no permission to read this file: make it readable, or remove it") from None
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: the file cannot be opened ({error}): check the path and the disk"
        ) from error


def open_for_model(source: Source | str, side: int, *, name: str | None = None) -> Image.Image:
    """Read one image for a model that reads squares of ``side`` pixels, whenever it is not cropped at random.

    A JPEG of twice the side or more is decoded straight to a half, a quarter or an eighth of its size, with both
    sides at least twice ``side``. Of 300 photos of 4000 x 3000 pixels, ViT-B/32 gave the same class for 297, with
    probabilities within 0.6 points, in half of the time. Training without augmentation, validation, test and
    prediction all read images so, which gives them the same pixels. Other formats come in full size.

    Args:
        source: As for ``open_image``.
        side: The side of the model's square in pixels, 1 or more.
        name: What errors call the image.

    Raises:
        ImageError: As ``open_image``.
    """
    return open_image(source, min_side=2 * side, name=name)


def size_in_header(content: bytes, *, name: str = "image in memory") -> tuple[int, int] | None:
    """Read the width and height in pixels of an image from the bytes of its file, and decode nothing.

    Args:
        content: The whole file.
        name: What errors call the image.

    Returns:
        None where the bytes are no image in a known format.

    Raises:
        ImageError: The format is known, and the header is damaged.
    """
    try:
        image = _identify(io.BytesIO(content))
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise _damaged(name, error) from error
    return None if image is None else image.size


def cut_long_side(image: Image.Image) -> Image.Image:
    """Cut an extremely long image to its middle, before its short side is enlarged to a model's square.

    An image of up to 16 times its width or height comes back as it is. Of a longer one, of which a model sees the
    middle square alone, 16 squares are kept: without it 5000 x 1 pixels became 1,120,000 x 224.
    """
    short, long = sorted(image.size)
    if long <= LONGEST * short:
        return image
    cut = (long - LONGEST * short) // 2
    wide = image.width > image.height
    return image.crop((cut, 0, long - cut, short) if wide else (0, cut, short, long - cut))


def why_missing(path: Path) -> str:
    """Say why there is no file at a path: it may be a link to one that is gone."""
    if not os.path.islink(path):
        return "there is no such file"
    return f"this is a link to {printable(os.readlink(path))}, which is not there"


def _decode(stream: BinaryIO, size: int, min_side: int | None, name: str) -> Image.Image:
    """Read one image from an open file of ``size`` bytes."""
    if size == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes): copy it again, or remove it")
    try:
        image = _identify(stream)
    except Exception as error:
        raise _damaged(name, error) from error
    if image is None:
        raise ImageError(
            f"{name}: this is not an image in a format that can be read ({_FORMATS}), "
            "whatever its ending says: convert it, or remove it"
        )
    width, height = image.size
    limit = 2 * (Image.MAX_IMAGE_PIXELS or float("inf"))  # where Pillow itself refuses; None there: no limit
    if width * height > limit:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the {limit} that are read (a guard against "
            "decompression bombs): scale the image down, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    if min_side is not None:
        image.draft(None, (min_side, min_side))  # keeps both sides >= min_side; does nothing but for JPEG
    return _finish(image, name)


def _identify(stream: BinaryIO) -> ImageFile.ImageFile | None:
    """Read a file's header with the reader that knows its first bytes; ``None`` where none does."""
    head = stream.read(16)
    for reader in _READERS:
        accepts = Image.OPEN[str(reader.format)][1]
        if accepts is not None and accepts(head) is True:
            stream.seek(0)
            return reader(stream, "")
    return None


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Decode, turn upright and convert to RGB."""
    try:
        image.load()
        if 0 in image.size:
            raise ValueError(f"its size is {image.width} x {image.height}")
        return _rgb(_upright(image))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        f"{name}: the image is damaged, cut short or of an unknown kind ({reason}): replace or remove it"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a broken EXIF block counts as none. Returns a copy in any case."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # metadata only: the pixels are already there
        return image.copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_bytes_of_grey(np.asarray(image), floats=image.mode == "F")).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # La converts to LA only
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _bytes_of_grey(values: npt.NDArray[Any], *, floats: bool) -> npt.NDArray[np.uint8]:
    """Scale grey values of more than 8 bits, (H, W), to 0..255; what is not a finite number counts as 0."""
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    fitting = [top for top in ([1.0, 255.0, 65535.0] if floats else [65535.0]) if low >= 0 and high <= top]
    low, high = (0.0, fitting[0]) if fitting else (low, high)
    span = (high - low) or 1.0  # one value all over, outside every usual range: black
    scaled: npt.NDArray[np.uint8] = np.rint((grey - low) * (255 / span)).astype(np.uint8)
    return scaled
